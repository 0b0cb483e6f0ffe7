/*
 * Ternary weights as in BitNet b1.58 (Ma et al. 2024): w = scale * t with t in -1, 0, 1 and scale = mean |w| of the row.
 *
 * No described layout fits, so the scheme has a layout of its own (four codes a byte, first in the low bits; a code is
 * t + 1), a decoder, a product for the CPU, and a CUDA kernel for GPU backends.
 */
#include <stdlib.h>

#include "schemes.h"

static uint64_t row_bytes_of(uint64_t cols)
{
    return (cols + 3) / 4;
}

/* Tokens that share the work of unpacking a row; sums that are added to side by side, which compilers turn into vector
 * instructions. */
enum { TOKENS = 16, LANES = 8 };

/* Columns in whole lanes. */
static uint64_t width_of(uint64_t cols)
{
    return (cols + LANES - 1) / LANES * LANES;
}

/* What `matmul` holds: a row of the weight and some of the input. One more, since nothing may be asked for. */
static uint64_t floats_of_product(uint64_t cols)
{
    return (1 + TOKENS) * width_of(cols) + 1;
}

static qbench_status ternary_layout(const void *instance, uint64_t rows, uint64_t cols, qbench_dtype source,
                                    const qbench_text *layout_json, uint64_t *workspace_bytes,
                                    const qbench_text *error)
{
    (void)instance;
    *workspace_bytes = floats_of_product(cols) * sizeof(float);
    if (!qbench_is_float(source))
        return qbench_fail(error, QBENCH_UNSUPPORTED, "a source that is not of a float type");
    qbench_write(layout_json, "{\"kind\":\"org.example.ternary/1\",\"rows\":");
    qbench_write_number(layout_json, rows);
    qbench_write(layout_json, ",\"cols\":");
    qbench_write_number(layout_json, cols);
    qbench_write(layout_json, ",\"buffers\":[{\"name\":\"codes\",\"dtype\":\"u8\",\"bytes\":");
    qbench_write_number(layout_json, rows * row_bytes_of(cols));
    qbench_write(layout_json, "},{\"name\":\"scales\",\"dtype\":\"f32\",\"bytes\":");
    qbench_write_number(layout_json, rows * 4);
    qbench_write(layout_json, "}]}");
    return QBENCH_OK;
}

static qbench_status ternary_quantize(const void *instance, const qbench_storage *storage,
                                      const qbench_matrix *source, const qbench_buffer *buffers,
                                      const qbench_call *call, const qbench_text *error)
{
    uint64_t row_bytes = row_bytes_of(source->cols);
    (void)instance;
    (void)storage;
    (void)call; /* one thread */
    for (uint64_t row = 0; row < source->rows; row++) {
        double sum = 0;
        float scale;
        for (uint64_t col = 0; col < source->cols; col++) {
            float value = qbench_get(source, row, col);
            sum += value < 0 ? -value : value;
        }
        scale = source->cols > 0 ? (float)(sum / (double)source->cols) : 0;
        if (!(scale <= 3.402823466e38f))
            return qbench_fail(error, QBENCH_UNSUPPORTED, "a weight that is not finite");
        memcpy(buffers[1].data + 4 * row, &scale, 4);
        for (uint64_t col = 0; col < source->cols; col++) {
            float value = qbench_get(source, row, col);
            uint8_t code = value > scale / 2 ? 2 : value < -(scale / 2) ? 0 : 1;
            buffers[0].data[row * row_bytes + col / 4] |= (uint8_t)(code << 2 * (col % 4));
        }
    }
    return QBENCH_OK;
}

static int trit(const qbench_const_buffer *buffers, uint64_t row_bytes, uint64_t row, uint64_t col)
{
    return (buffers[0].data[row * row_bytes + col / 4] >> 2 * (col % 4) & 3) - 1;
}

static float scale_of(const qbench_const_buffer *buffers, uint64_t row)
{
    float scale;
    memcpy(&scale, buffers[1].data + 4 * row, 4);
    return scale;
}

static qbench_status ternary_dequantize(const void *instance, const qbench_storage *storage,
                                        const qbench_const_buffer *buffers, uint64_t first_row,
                                        const qbench_matrix_mut *out, const qbench_call *call,
                                        const qbench_text *error)
{
    uint64_t row_bytes = row_bytes_of(storage->cols);
    (void)instance;
    (void)call;
    if (!qbench_is_float(out->dtype))
        return qbench_fail(error, QBENCH_UNSUPPORTED, "an output that is not of a float type");
    if (out->cols != storage->cols || first_row > storage->rows || out->rows > storage->rows - first_row)
        return qbench_fail(error, QBENCH_INVALID_ARGUMENT, "rows that do not lie in the weight");
    for (uint64_t row = 0; row < out->rows; row++)
        for (uint64_t col = 0; col < out->cols; col++)
            qbench_set(out, row, col,
                       (float)trit(buffers, row_bytes, first_row + row, col) * scale_of(buffers, first_row + row));
    return QBENCH_OK;
}

static float dot(const float *x, const float *weights, uint64_t count)
{
    float sums[LANES] = {0}, sum = 0;
    for (uint64_t at = 0; at < count; at += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += x[at + lane] * weights[at + lane];
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}

/* Some tokens at a time: each row is unpacked once for all of them; one product with the row's scale at the end. */
static qbench_status ternary_matmul(const void *instance, const qbench_storage *storage,
                                    const qbench_const_buffer *buffers, const qbench_matrix *input,
                                    const qbench_matrix_mut *output, const qbench_call *call,
                                    const qbench_text *error)
{
    uint64_t row_bytes = row_bytes_of(storage->cols), width = width_of(storage->cols);
    float *weights, *x;
    (void)instance;
    (void)call; /* one thread */
    if (!qbench_is_float(input->dtype) || !qbench_is_float(output->dtype))
        return qbench_fail(error, QBENCH_UNSUPPORTED, "matrices that are not of a float type");
    if (input->cols != storage->cols || output->cols != storage->rows || input->rows != output->rows)
        return qbench_fail(error, QBENCH_INVALID_ARGUMENT, "matrices that do not fit the weight");
    /* What lies past the last column stays 0. */
    weights = calloc(floats_of_product(storage->cols), sizeof *weights);
    if (weights == NULL)
        return qbench_fail(error, QBENCH_RESOURCE_EXHAUSTED, "no memory for some rows of the input");
    x = weights + width;
    for (uint64_t first = 0; first < input->rows; first += TOKENS) {
        uint64_t tokens = input->rows - first < TOKENS ? input->rows - first : TOKENS;
        for (uint64_t token = 0; token < tokens; token++)
            for (uint64_t col = 0; col < input->cols; col++)
                x[token * width + col] = qbench_get(input, first + token, col);
        for (uint64_t row = 0; row < storage->rows; row++) {
            for (uint64_t col = 0; col < storage->cols; col++)
                weights[col] = (float)trit(buffers, row_bytes, row, col);
            for (uint64_t token = 0; token < tokens; token++)
                qbench_set(output, first + token, row, dot(x + token * width, weights, width) * scale_of(buffers, row));
        }
    }
    free(weights);
    return QBENCH_OK;
}

/* A block of 256 threads writes 1024 columns of a row. bfloat16 is rounded by hand: no header is to be had everywhere. */
static const char kernel_source[] =
    "typedef unsigned long long u64;\n"
    "__device__ static inline float weight(const void *codes, const void *scales, u64 cols, u64 row, u64 col)\n"
    "{\n"
    "    unsigned byte = ((const unsigned char *)codes)[row * ((cols + 3) / 4) + col / 4];\n"
    "    return (float)((int)(byte >> 2 * (col % 4) & 3) - 1) * ((const float *)scales)[row];\n"
    "}\n"
    "extern \"C\" __global__ void ternary_f32(float *out, u64 first_row, u64 rows, u64 cols, const void *codes,\n"
    "                                       const void *scales)\n"
    "{\n"
    "    u64 row = blockIdx.x, first = blockIdx.y * 1024ull, col;\n"
    "    for (col = first + threadIdx.x; col < cols && col < first + 1024; col += blockDim.x)\n"
    "        if (row < rows)\n"
    "            out[row * cols + col] = weight(codes, scales, cols, first_row + row, col);\n"
    "}\n"
    "extern \"C\" __global__ void ternary_bf16(unsigned short *out, u64 first_row, u64 rows, u64 cols,\n"
    "                                        const void *codes, const void *scales)\n"
    "{\n"
    "    u64 row = blockIdx.x, first = blockIdx.y * 1024ull, col;\n"
    "    for (col = first + threadIdx.x; col < cols && col < first + 1024; col += blockDim.x)\n"
    "        if (row < rows) {\n"
    "            union { float value; unsigned bits; } both;\n"
    "            both.value = weight(codes, scales, cols, first_row + row, col);\n"
    "            out[row * cols + col] = (unsigned short)((both.bits + 0x7fff + (both.bits >> 16 & 1)) >> 16);\n"
    "        }\n"
    "}\n";

static qbench_status ternary_cuda_kernel(const void *instance, const qbench_storage *storage,
                                         const qbench_text *kernel_json, const qbench_text *error)
{
    (void)instance;
    (void)storage;
    (void)error;
    qbench_write(kernel_json, "{\"name\":\"ternary\",\"source\":{\"language\":\"cuda_c\",\"text\":");
    qbench_write_json_string(kernel_json, kernel_source);
    qbench_write(kernel_json, "},\"entries\":{\"f32\":\"ternary_f32\",\"bf16\":\"ternary_bf16\"},"
                              "\"geometry\":{\"threads\":256,\"tile_rows\":1,\"tile_cols\":1024}}");
    return QBENCH_OK;
}

const qbench_scheme ternary_scheme = {
    .struct_size = sizeof(qbench_scheme),
    .info_json = "{\"id\":\"c_ternary\",\"summary\":\"ternary weights with a scale a row, written in C\"}",
    .layout = ternary_layout,
    .quantize = ternary_quantize,
    .dequantize = ternary_dequantize,
    .matmul = ternary_matmul,
    .cuda_kernel = ternary_cuda_kernel,
};
