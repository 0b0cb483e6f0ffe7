/*
 * Symmetric 4-bit integers: each row in groups, w = scale * code with code in -7 .. 7 and scale = max |w| / 7.
 *
 * The layout is a block codebook whose 16 values are the integers -8 .. 7. Every backend has a kernel for that, so this
 * scheme has no decoder of its own.
 */
#include <stdlib.h>

#include "schemes.h"

struct int4 {
    uint64_t group;
};

static qbench_status int4_open(const qbench_option *options, size_t option_count, void **instance,
                               const qbench_text *error)
{
    struct int4 *scheme = malloc(sizeof *scheme);
    if (scheme == NULL)
        return qbench_fail(error, QBENCH_RESOURCE_EXHAUSTED, "no memory for the scheme");
    scheme->group = 64;
    for (size_t i = 0; i < option_count; i++) {
        char *end;
        if (strcmp(options[i].key, "group") != 0) {
            qbench_write(error, "option `");
            qbench_write(error, options[i].key);
            free(scheme);
            return qbench_fail(error, QBENCH_INVALID_ARGUMENT, "` is unknown; known options: group");
        }
        scheme->group = strtoull(options[i].value, &end, 10);
        if (*end != '\0' || scheme->group < 16 || scheme->group > 4096) {
            qbench_write(error, "option `group=");
            qbench_write(error, options[i].value);
            free(scheme);
            return qbench_fail(error, QBENCH_INVALID_ARGUMENT, "`: expected a number from 16 to 4096");
        }
    }
    *instance = scheme;
    return QBENCH_OK;
}

static void int4_close(void *instance)
{
    free(instance);
}

static qbench_status int4_layout(const void *instance, uint64_t rows, uint64_t cols, qbench_dtype source,
                                 const qbench_text *layout_json, uint64_t *workspace_bytes,
                                 const qbench_text *error)
{
    const struct int4 *scheme = instance;
    (void)workspace_bytes;
    if (!qbench_is_float(source))
        return qbench_fail(error, QBENCH_UNSUPPORTED, "a source that is not of a float type");
    qbench_write(layout_json, "{\"kind\":\"qbench.block-codebook/1\",\"bits\":4,\"order\":\"low_first\","
                              "\"blocks\":\"per_row\",\"scale\":{\"type\":\"f32\"},\"rows\":");
    qbench_write_number(layout_json, rows);
    qbench_write(layout_json, ",\"cols\":");
    qbench_write_number(layout_json, cols);
    qbench_write(layout_json, ",\"block\":");
    qbench_write_number(layout_json, scheme->group);
    qbench_write(layout_json, "}");
    return QBENCH_OK;
}

/* The buffers of this layout: codes, codebook, absmax. */
static qbench_status int4_quantize(const void *instance, const qbench_storage *storage, const qbench_matrix *source,
                                   const qbench_buffer *buffers, const qbench_call *call, const qbench_text *error)
{
    const struct int4 *scheme = instance;
    uint64_t row_bytes = (source->cols + 1) / 2;
    uint64_t row_groups = (source->cols + scheme->group - 1) / scheme->group;
    (void)storage;
    (void)call; /* one thread */
    for (int code = 0; code < 16; code++) {
        float value = (float)(code - 8);
        memcpy(buffers[1].data + 4 * code, &value, 4);
    }
    for (uint64_t row = 0; row < source->rows; row++) {
        for (uint64_t group = 0; group < row_groups; group++) {
            uint64_t first = group * scheme->group, end = first + scheme->group;
            float largest = 0, scale;
            if (end > source->cols)
                end = source->cols;
            for (uint64_t col = first; col < end; col++) {
                float value = qbench_get(source, row, col);
                float magnitude = value < 0 ? -value : value;
                if (!(magnitude <= 3.402823466e38f))
                    return qbench_fail(error, QBENCH_UNSUPPORTED, "a weight that is not finite");
                if (magnitude > largest)
                    largest = magnitude;
            }
            scale = largest / 7;
            memcpy(buffers[2].data + 4 * (row * row_groups + group), &scale, 4);
            for (uint64_t col = first; col < end; col++) {
                /* In -7 .. 7, but for a scale that was rounded up or away; the halves go up. */
                float steps = scale > 0 ? qbench_get(source, row, col) / scale : 0;
                int code = (int)(steps + 8.5f);
                code = code < 1 ? 1 : code > 15 ? 15 : code;
                buffers[0].data[row * row_bytes + col / 2] |= (uint8_t)(col % 2 == 0 ? code : code << 4);
            }
        }
    }
    return QBENCH_OK;
}

const qbench_scheme int4_scheme = {
    .struct_size = sizeof(qbench_scheme),
    .info_json = "{\"id\":\"c_int4\",\"summary\":\"symmetric 4-bit integers, written in C\","
                 "\"options\":[[\"group\",\"64\"]]}",
    .open = int4_open,
    .close = int4_close,
    .layout = int4_layout,
    .quantize = int4_quantize,
};
