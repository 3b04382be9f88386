#include "shim/ttrpc/server.h"
