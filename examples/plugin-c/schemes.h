#ifndef SCHEMES_H
#define SCHEMES_H

#include "qbench_plugin.h"

extern const qbench_scheme int4_scheme;
extern const qbench_scheme ternary_scheme;

#endif
