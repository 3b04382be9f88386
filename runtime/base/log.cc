#include "runtime/base/log.h"
