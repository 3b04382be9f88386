#include "runtime/spawn.h"
