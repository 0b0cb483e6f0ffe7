/* What this plugin offers. */
#include "schemes.h"

static const qbench_scheme *const schemes[] = {&int4_scheme, &ternary_scheme};

static const qbench_plugin plugin = {
    .struct_size = sizeof(qbench_plugin),
    .abi = QBENCH_PLUGIN_ABI,
    .name = "qbench-example-c",
    .version = "0.1.0",
    .license = "MIT OR Apache-2.0",
    .scheme_count = sizeof schemes / sizeof schemes[0],
    .schemes = schemes,
};

const qbench_plugin *qbench_plugin_v1(const qbench_host *host, const qbench_text *error)
{
    (void)host;
    (void)error;
    return &plugin;
}
