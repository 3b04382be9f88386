#include "shim/publisher.h"
