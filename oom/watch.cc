#include "oom/watch.h"
