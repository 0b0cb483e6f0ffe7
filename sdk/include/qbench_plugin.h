/*
 * qbench_plugin.h: the C interface of qbench plugins, version 1.
 *
 * A plugin is a shared library that exports one function, qbench_plugin_v1. It offers quantisation schemes: how a weight
 * matrix is stored, and how floats are made of it again. (Model backends are written in Rust, with qbench-sdk.)
 *
 *   cc -std=c99 -O2 -shared -fPIC -I path/to/sdk/include -o libmy_scheme.so my_scheme.c
 *   qbench --plugin ./libmy_scheme.so
 *
 * Stability. Nothing here changes within version 1 except that a struct that starts with struct_size may gain fields at
 * its end. Fill struct_size with sizeof: the other side then knows which fields are there, and takes a missing one for
 * zero. Before you read a field that was added after the first release, ask QBENCH_HAS.
 *
 * Texts are UTF-8 and end with a zero byte. Pointers that are arguments are borrowed for the call alone.
 *
 * Functions of a scheme may be called from several threads at once. They return QBENCH_OK or another status, and then
 * write to `error` what was wrong. They must not end the process and must not let a C++ exception out: catch it and
 * return QBENCH_INTERNAL.
 */
#ifndef QBENCH_PLUGIN_H
#define QBENCH_PLUGIN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface. */
#define QBENCH_PLUGIN_ABI 1

#if defined(__GNUC__)
#define QBENCH_EXPORT __attribute__((visibility("default")))
#else
#define QBENCH_EXPORT
#endif

/* Whether the struct behind `pointer` is long enough to have `field`. */
#define QBENCH_HAS(pointer, field) \
    ((size_t)((const char *)(&(pointer)->field + 1) - (const char *)(pointer)) <= (pointer)->struct_size)

/* What a function returns; the numbers are those of absl::StatusCode. An open set: any other number is a failure too. */
typedef int32_t qbench_status;
#define QBENCH_OK 0
#define QBENCH_INVALID_ARGUMENT 3   /* the request breaks the contract, or an option is wrong */
#define QBENCH_NOT_FOUND 5
#define QBENCH_RESOURCE_EXHAUSTED 8 /* out of memory */
#define QBENCH_UNSUPPORTED 12       /* legal, but not implemented here: a shape, an element type */
#define QBENCH_INTERNAL 13

/* Element type; all are little-endian. An open set: answer an unknown one with QBENCH_UNSUPPORTED. */
typedef uint32_t qbench_dtype;
#define QBENCH_F32 1
#define QBENCH_F16 2
#define QBENCH_BF16 3
#define QBENCH_I8 4
#define QBENCH_U8 5

/* Severity of a message. */
#define QBENCH_LOG_ERROR 1
#define QBENCH_LOG_WARNING 2
#define QBENCH_LOG_INFO 3
#define QBENCH_LOG_DEBUG 4

/* Where text goes: `write` appends `bytes` bytes and may be called several times. */
typedef struct qbench_text {
    void *context;
    void (*write)(void *context, const char *text, size_t bytes);
} qbench_text;

/* An option as the user typed it: key=value. */
typedef struct qbench_option {
    const char *key;
    const char *value;
} qbench_option;

/* A row-major matrix to be read; row r starts at data + r * row_stride. A weight is [out_features, in_features]. */
typedef struct qbench_matrix {
    const uint8_t *data;
    uint64_t bytes; /* behind `data` */
    uint64_t rows;
    uint64_t cols;
    uint64_t row_stride; /* in bytes */
    qbench_dtype dtype;
} qbench_matrix;

/* A row-major matrix to be written. */
typedef struct qbench_matrix_mut {
    uint8_t *data;
    uint64_t bytes;
    uint64_t rows;
    uint64_t cols;
    uint64_t row_stride;
    qbench_dtype dtype;
} qbench_matrix_mut;

/* A buffer of a layout to be filled: zeroed, on 64 bytes, of the size that the layout asks for. */
typedef struct qbench_buffer {
    uint8_t *data;
    uint64_t bytes;
} qbench_buffer;

/* A buffer of a layout to be read, of the size that the layout asks for. */
typedef struct qbench_const_buffer {
    const uint8_t *data;
    uint64_t bytes;
} qbench_const_buffer;

/* How a weight is stored. */
typedef struct qbench_storage {
    size_t struct_size;
    uint64_t rows; /* out_features of the whole weight */
    uint64_t cols; /* in_features */
    const char *layout_json; /* what the scheme's `layout` wrote, perhaps with other spaces and order of keys */
    size_t buffer_count;
} qbench_storage;

/* Limits of a call. */
typedef struct qbench_call {
    size_t struct_size;
    uint32_t threads; /* that may be used at most */
} qbench_call;

/*
 * A quantisation scheme. `instance` is what `open` made.
 *
 * `layout` describes the storage of a rows x cols weight of type `source` as JSON; it is pure. Layouts that every
 * backend runs with its own kernels (qbench-sdk documents them in its module `layout`) look like
 *
 *   {"kind":"qbench.block-codebook/1","rows":R,"cols":C,"bits":4,"order":"low_first","blocks":"per_row","block":64,
 *    "scale":{"type":"f32"}}
 *
 * and storage of one's own, which needs `dequantize`, like
 *
 *   {"kind":"org.example.ternary/1","rows":R,"cols":C,"buffers":[{"name":"codes","bytes":N,"dtype":"u8"}, ...]}
 *
 * Floats never go into JSON: they are in buffers. Function pointers may be null where that is said.
 */
typedef struct qbench_scheme {
    size_t struct_size;
    /* {"id":"my_scheme","summary":"one line","aliases":["mine"],"options":[["group","64"]]}: id is the mode that users
     * type; aliases and options (name and default) may be left out. */
    const char *info_json;
    /* Makes an instance with the user's options; an unknown option is QBENCH_INVALID_ARGUMENT. With no options it must
     * succeed and be cheap. Null: there are no options, and `instance` is null. */
    qbench_status (*open)(const qbench_option *options, size_t option_count, void **instance,
                          const qbench_text *error);
    /* Ends an instance. Null: nothing is to be done. */
    void (*close)(void *instance);
    /* Writes the layout. `workspace_bytes` is 0 before the call: scratch memory that `matmul` may hold. */
    qbench_status (*layout)(const void *instance, uint64_t rows, uint64_t cols, qbench_dtype source,
                            const qbench_text *layout_json, uint64_t *workspace_bytes, const qbench_text *error);
    /* Fills the buffers, in the order of the layout. Here and below, the buffers are of the sizes that the layout says, and
     * matrices of the shapes that `storage` asks for: that is checked before the call. The result depends on `source` alone, not on the threads. */
    qbench_status (*quantize)(const void *instance, const qbench_storage *storage, const qbench_matrix *source,
                              const qbench_buffer *buffers, const qbench_call *call, const qbench_text *error);
    /* Writes the rows first_row .. first_row + out->rows, rounded once to the type of `out`.
     * Null: the layout is one that qbench knows and decodes. */
    qbench_status (*dequantize)(const void *instance, const qbench_storage *storage,
                                const qbench_const_buffer *buffers, uint64_t first_row, const qbench_matrix_mut *out,
                                const qbench_call *call, const qbench_text *error);
    /* output[t][r] = sum over c of input[t][c] * weight[r][c], on the CPU. Null: there is none. */
    qbench_status (*matmul)(const void *instance, const qbench_storage *storage, const qbench_const_buffer *buffers,
                            const qbench_matrix *input, const qbench_matrix_mut *output, const qbench_call *call,
                            const qbench_text *error);
    /* Writes the description of a CUDA kernel that makes floats of such weights, as JSON:
     *   {"name":"...","source":{"language":"cuda_c","text":"..."},"entries":{"f32":"function","bf16":"other"},
     *    "geometry":{"threads":256,"tile_rows":1,"tile_cols":1024,"shared_bytes":0},"constants":[]}
     * (language cuda_c or ptx; one entry for each type that it can write). qbench-sdk's module `cuda_kernel` says how it
     * is launched. To write nothing means that there is none for this weight. Null: there is none. */
    qbench_status (*cuda_kernel)(const void *instance, const qbench_storage *storage, const qbench_text *kernel_json,
                                 const qbench_text *error);
} qbench_scheme;

/* What a plugin is. */
typedef struct qbench_plugin {
    size_t struct_size;
    uint32_t abi;        /* QBENCH_PLUGIN_ABI */
    const char *name;    /* of the plugin, such as "my-plugin" */
    const char *version; /* of the plugin, such as "1.0.0" */
    const char *license; /* SPDX expression, such as "MIT" */
    size_t scheme_count;
    const qbench_scheme *const *schemes;
} qbench_plugin;

/* What the host offers; it lives as long as the process. */
typedef struct qbench_host {
    size_t struct_size;
    /* Shows a message to the user as one of plugin::<target>. */
    void (*log)(uint32_t level, const char *target, const char *message);
} qbench_host;

/*
 * The entry of a plugin. Returns what it offers, which must stay as it is until the process ends, or null after it wrote
 * to `error` why it cannot be used.
 */
QBENCH_EXPORT const qbench_plugin *qbench_plugin_v1(const qbench_host *host, const qbench_text *error);

/* ---- helpers, compiled into the plugin ---- */

/* Appends text. */
static inline void qbench_write(const qbench_text *text, const char *string)
{
    text->write(text->context, string, strlen(string));
}

/* Appends a number in decimal digits. */
static inline void qbench_write_number(const qbench_text *text, uint64_t number)
{
    char digits[20];
    size_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    text->write(text->context, digits + first, sizeof digits - first);
}

/* Appends a JSON string with its quotes: a kernel's source, say. */
static inline void qbench_write_json_string(const qbench_text *text, const char *string)
{
    static const char hex[] = "0123456789abcdef";
    char escape[] = "\\u00xx";
    qbench_write(text, "\"");
    for (; *string != '\0'; string++) {
        unsigned char byte = (unsigned char)*string;
        if (byte < 0x20 || byte == '"' || byte == '\\') {
            escape[4] = hex[byte >> 4];
            escape[5] = hex[byte & 15];
            qbench_write(text, escape);
        } else {
            text->write(text->context, string, 1);
        }
    }
    qbench_write(text, "\"");
}

/* Writes an error and returns its status: return qbench_fail(error, QBENCH_UNSUPPORTED, "odd columns"); */
static inline qbench_status qbench_fail(const qbench_text *error, qbench_status status, const char *message)
{
    qbench_write(error, message);
    return status;
}

/* The f32 of given bits, and the bits of an f32. */
static inline float qbench_float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline uint32_t qbench_bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The value of an IEEE binary16; exact. */
static inline float qbench_float_of_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half >> 15) << 31, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 0) {
        /* 2^-24 a unit. */
        float magnitude = (float)fraction * qbench_float_of_bits(0x33800000);
        return qbench_float_of_bits(sign | qbench_bits_of_float(magnitude));
    }
    if (exponent == 31)
        return qbench_float_of_bits(sign | 0x7f800000 | fraction << 13 | (fraction != 0 ? 0x400000 : 0));
    return qbench_float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

/* An f32 rounded to IEEE binary16, to nearest, ties to even; a NaN stays one. */
static inline uint16_t qbench_f16_of_float(float value)
{
    uint32_t bits = qbench_bits_of_float(value), magnitude = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    if (magnitude >= 0x477ff000) /* 65520 and above */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) {
        /* Below 2^-14: the sum with 2^-1 has units of 2^-24, to which the processor rounds. */
        float sum = qbench_float_of_bits(magnitude) + qbench_float_of_bits(0x3f000000);
        return (uint16_t)(sign | (qbench_bits_of_float(sum) - 0x3f000000));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((magnitude >> 13) - (112 << 10)));
}

/* The value of a bfloat16; exact. */
static inline float qbench_float_of_bf16(uint16_t half)
{
    return qbench_float_of_bits((uint32_t)half << 16);
}

/* An f32 rounded to bfloat16, to nearest, ties to even; a NaN stays one. */
static inline uint16_t qbench_bf16_of_float(float value)
{
    uint32_t bits = qbench_bits_of_float(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* An element of a float matrix as f32; 0 for a type that is no float, which qbench_is_float tells before. */
static inline float qbench_get(const qbench_matrix *matrix, uint64_t row, uint64_t col)
{
    const uint8_t *start = matrix->data + row * matrix->row_stride;
    float value = 0;
    uint16_t half;
    if (matrix->dtype == QBENCH_F32) {
        memcpy(&value, start + col * 4, 4);
    } else if (matrix->dtype == QBENCH_F16 || matrix->dtype == QBENCH_BF16) {
        memcpy(&half, start + col * 2, 2);
        value = matrix->dtype == QBENCH_F16 ? qbench_float_of_f16(half) : qbench_float_of_bf16(half);
    }
    return value;
}

/* Writes an element of a float matrix, rounded once. */
static inline void qbench_set(const qbench_matrix_mut *matrix, uint64_t row, uint64_t col, float value)
{
    uint8_t *start = matrix->data + row * matrix->row_stride;
    uint16_t half;
    if (matrix->dtype == QBENCH_F32) {
        memcpy(start + col * 4, &value, 4);
    } else if (matrix->dtype == QBENCH_F16 || matrix->dtype == QBENCH_BF16) {
        half = matrix->dtype == QBENCH_F16 ? qbench_f16_of_float(value) : qbench_bf16_of_float(value);
        memcpy(start + col * 2, &half, 2);
    }
}

/* Whether qbench_get and qbench_set know the type. */
static inline int qbench_is_float(qbench_dtype dtype)
{
    return dtype == QBENCH_F32 || dtype == QBENCH_F16 || dtype == QBENCH_BF16;
}

#ifdef __cplusplus
}
#endif

#endif /* QBENCH_PLUGIN_H */
