// Y = X · Wᵀ for LLM.int8() for 1 to 4 rows of X, from X as it is: bound by reading W once.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
//
// A block of threads a multiprocessor quantises X for itself, in shared memory, while the first codes of W are on their way;
// then a warp takes a row of W after another. Outlier columns are multiplied in the element's type, W's dequantised: each by
// a lane where they are few, else where they are found. One launch multiplies with up to three weights of as many columns,
// row after row; or with two whose rows alternate, of which the first's product, through silu, gates the second's.
#include "numbers.cuh"
#include "overlap.cuh"
#include "silu.cuh"

static constexpr int WARPS = 24;  // more would leave a thread too few registers
static constexpr int THREADS = WARPS * 32;
static constexpr int MOST_PARTS = 3;
static constexpr int WORD = 16;  // codes a lane reads at once
static constexpr u32 MOST_LISTED = 128;  // outlier columns that are listed
static constexpr float PRODUCT_STEP = 1.0f / (127.0f * 127.0f);

// One weight.
struct Part {
    const signed char* codes;  // [rows, cols]
    const float* scales;       // [rows]
    u16* y;                    // [tokens, rows]
    u32 rows;
    u32 first_row;  // beyond all rows where there is no such part
};

struct Few {
    Part parts[MOST_PARTS];
    const u16* x;  // [tokens, cols]
    const float* threshold;
    u32 tokens, cols;
    u32 rows;   // of all parts
    u32 gated;  // whether the first of two parts gates the second
};

// The largest of a block's values.
static __device__ __forceinline__ u32 largest(u32 value, u32* warps) {
    value = __reduce_max_sync(~0u, value);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    return __reduce_max_sync(~0u, warps[threadIdx.x % 32 % WARPS]);
}

// Lists the columns whose flags are set, in order, if they are not too many; returns how many there are. For all threads.
static __device__ __forceinline__ u32 list_columns(const u32* flags, u32 cols, u32* columns, u32* warps) {
    const u32 words = (cols + 31) / 32, share = (words + THREADS - 1) / THREADS;
    const u32 first = min(threadIdx.x * share, words), last = min(first + share, words);
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 mine = 0;
    for (u32 i = first; i < last; i++) mine += __popc(flags[i]);
    u32 until = mine;  // up to this lane, in this warp
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const u32 below = __shfl_up_sync(~0u, until, offset);
        if (lane >= offset) until += below;
    }
    if (lane == 31) warps[warp] = until;
    __syncthreads();
    const u32 of_warp = lane < WARPS ? warps[lane] : 0;
    const u32 before = __reduce_add_sync(~0u, lane < warp ? of_warp : 0), all = __reduce_add_sync(~0u, of_warp);
    if (all <= MOST_LISTED) {
        u32 at = before + until - mine;
        for (u32 i = first; i < last; i++)
            for (u32 left = flags[i]; left != 0; left &= left - 1) columns[at++] = i * 32 + __ffs(left) - 1;
    }
    return all;
}

template <class T, int TOKENS>
static __device__ __forceinline__ void few(const Few& p) {
    constexpr int BATCH = TOKENS == 1 ? 8 : 4;  // words of a lane that are on their way at once
    extern __shared__ uint4 shared[];
    u16* const raw = reinterpret_cast<u16*>(shared);                                 // [tokens][cols]
    signed char* const codes = reinterpret_cast<signed char*>(raw + p.tokens * p.cols);  // [tokens][cols]
    u32* const flags = reinterpret_cast<u32*>(codes + p.tokens * p.cols);            // a bit a column, set for an outlier
    __shared__ u32 warps_most[TOKENS][WARPS], warps_listed[WARPS], columns[MOST_LISTED];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    struct Place {
        const Part& part;
        u32 row;
    };
    auto place = [&](u32 slot) -> Place {
        if (p.gated) return {p.parts[slot % 2], slot / 2};
        const Part& part = p.parts[(slot >= p.parts[1].first_row) + (slot >= p.parts[2].first_row)];
        return {part, slot - part.first_row};
    };
    // Rows of W, in pairs where they are gated. Neighbours go to different blocks, so that all have as many.
    const u32 together = p.gated + 1, units = p.rows / together;
    const u32 first_unit = warp * gridDim.x + blockIdx.x, step = WARPS * gridDim.x;
    uint4 words[BATCH];
    // Nobody reads them again. Volatile: all of a batch go out before the first is waited for.
    auto fetch = [&](const signed char* row, u32 first) {
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const u32 col = first + (b * 32 + lane) * WORD;
            if (col < p.cols)
                asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                             : "=r"(words[b].x), "=r"(words[b].y), "=r"(words[b].z), "=r"(words[b].w)
                             : "l"(row + col));
        }
    };
    auto row_of = [&](const Place& at) { return at.part.codes + static_cast<u64>(at.row) * p.cols; };
    if (first_unit < units) fetch(row_of(place(first_unit * together)), 0);
    for (u32 i = threadIdx.x; i < (p.cols + 31) / 32; i += THREADS) flags[i] = 0;
    const float threshold = __ldg(p.threshold);
    __syncthreads();
    end_of_overlap();

    // As `int8_quantize` does it: by values rounded to f16; a NaN is no outlier, as no comparison with one is true.
    auto rounded = [](u16 element) { return F16::widen(F16::narrow(T::widen(element))); };
    auto is_outlier = [&](float value) { return threshold > 0 && fabsf(value) >= threshold; };
    auto element = [](const uint4& eight, int i) {
        const u32 word = i < 2 ? eight.x : i < 4 ? eight.y : i < 6 ? eight.z : eight.w;
        return static_cast<u16>(word >> (16 * (i % 2)));
    };
    bool found = false;
    float x_scale[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        if (TOKENS > 1 && t >= p.tokens) break;
        u32 most = 0;
        for (u32 at = threadIdx.x * 8; at < p.cols; at += THREADS * 8) {
            const uint4 eight = *reinterpret_cast<const uint4*>(p.x + static_cast<u64>(t) * p.cols + at);
            *reinterpret_cast<uint4*>(raw + t * p.cols + at) = eight;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float value = rounded(element(eight, i));
                if (is_outlier(value))
                    found = true, atomicOr(flags + (at + i) / 32, 1u << (at + i) % 32);
                else
                    most = max(most, __float_as_uint(fabsf(value)));
            }
        }
        x_scale[t] = __uint_as_float(largest(most, warps_most[t]));
    }
    const bool outliers = __syncthreads_or(found);
    const u32 outlier_columns = outliers ? list_columns(flags, p.cols, columns, warps_listed) : 0;
    const bool listed = outlier_columns <= MOST_LISTED;
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        if (TOKENS > 1 && t >= p.tokens) break;
        const float factor = __fmul_rn(__fdiv_rn(1, x_scale[t]), 127);
        for (u32 at = threadIdx.x * 8; at < p.cols; at += THREADS * 8) {
            const uint4 eight = *reinterpret_cast<const uint4*>(raw + t * p.cols + at);
            const u32 its_flags = flags[at / 32] >> at % 32;
            u32 packed[2] = {0, 0};
#pragma unroll
            for (int i = 0; i < 8; i++) {
                // A NaN becomes 0: every code of a row without, or with an endless or undefined scale.
                const int code = its_flags >> i & 1 ? 0 : __float2int_rn(__fmul_rn(rounded(element(eight, i)), factor));
                packed[i / 4] |= (code & 255) << (8 * (i % 4));
            }
            *reinterpret_cast<uint2*>(codes + t * p.cols + at) = make_uint2(packed[0], packed[1]);
        }
    }
    __syncthreads();

    auto dequantized = [](signed char code, float w_scale) {
        return T::widen(T::narrow(__fmul_rn(__fmul_rn(static_cast<float>(code), w_scale), 1.0f / 127.0f)));
    };
    // A row's product with each token, in every lane, rounded.
    bool fetched = true;
    auto multiply = [&](const Place& at, u16 (&to)[TOKENS]) {
        const signed char* const row = row_of(at);
        const float w_scale = __ldg(at.part.scales + at.row);
        int sum[TOKENS] = {};
        float extra[TOKENS] = {};
        if (!fetched) fetch(row, 0);
        fetched = false;
        if (listed) {
#pragma unroll 1
            for (u32 i = lane; i < outlier_columns; i += 32) {
                const u32 col = columns[i];
                const float value = dequantized(__ldg(row + col), w_scale);
#pragma unroll
                for (int t = 0; t < TOKENS; t++) {
                    if (TOKENS > 1 && t >= p.tokens) break;
                    extra[t] = fmaf(T::widen(raw[t * p.cols + col]), value, extra[t]);
                }
            }
        }
#pragma unroll 1
        for (u32 first = 0; first < p.cols; first += BATCH * 32 * WORD) {
            if (first > 0) fetch(row, first);
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                const u32 col = first + (b * 32 + lane) * WORD;
                if (col >= p.cols) break;
                const u32 w[4] = {words[b].x, words[b].y, words[b].z, words[b].w};
#pragma unroll
                for (int t = 0; t < TOKENS; t++) {
                    if (TOKENS > 1 && t >= p.tokens) break;
                    const uint4 of_x = *reinterpret_cast<const uint4*>(codes + t * p.cols + col);
                    sum[t] = __dp4a(static_cast<int>(w[0]), static_cast<int>(of_x.x), sum[t]);
                    sum[t] = __dp4a(static_cast<int>(w[1]), static_cast<int>(of_x.y), sum[t]);
                    sum[t] = __dp4a(static_cast<int>(w[2]), static_cast<int>(of_x.z), sum[t]);
                    sum[t] = __dp4a(static_cast<int>(w[3]), static_cast<int>(of_x.w), sum[t]);
                }
                const u32 mask = listed ? 0 : flags[col / 32] >> col % 32 & 0xffff;
                if (mask == 0) continue;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float values[8];
#pragma unroll
                    for (int i = 0; i < 8; i++) {
                        const auto code = static_cast<signed char>(w[half * 2 + i / 4] >> (8 * (i % 4)));
                        values[i] = mask >> (half * 8 + i) & 1 ? dequantized(code, w_scale) : 0;
                    }
#pragma unroll
                    for (int t = 0; t < TOKENS; t++) {
                        if (TOKENS > 1 && t >= p.tokens) break;
                        const uint4 eight = *reinterpret_cast<const uint4*>(raw + t * p.cols + col + half * 8);
#pragma unroll
                        for (int i = 0; i < 8; i++)
                            // What is no outlier may be no number.
                            if (mask >> (half * 8 + i) & 1) extra[t] = fmaf(T::widen(element(eight, i)), values[i], extra[t]);
                    }
                }
            }
        }
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            if (TOKENS > 1 && t >= p.tokens) break;
            const int whole = __reduce_add_sync(~0u, sum[t]);
            const float scale = __fmul_rn(x_scale[t], w_scale);
            to[t] = T::narrow(__fmul_rn(__fmul_rn(__int2float_rn(whole), scale), PRODUCT_STEP));
            if (!outliers) continue;
            // The integer part is rounded to the output's type before the outliers are added.
            for (int offset = 16; offset > 0; offset /= 2) extra[t] += __shfl_xor_sync(~0u, extra[t], offset);
            to[t] = T::narrow(T::widen(to[t]) + extra[t]);
        }
    };
    for (u32 unit = first_unit; unit < units; unit += step) {
        const Place at = place(unit * together);
        u16 result[TOKENS];
        multiply(at, result);
        if (p.gated) {
            u16 other[TOKENS];
            multiply(place(unit * together + 1), other);
#pragma unroll
            for (int t = 0; t < TOKENS; t++) {
                if (TOKENS > 1 && t >= p.tokens) break;
                result[t] = T::narrow(silu_times(T::widen(result[t]), T::widen(other[t])));
            }
        }
#pragma unroll
        for (int t = 0; t < TOKENS; t++)
            if (lane == t && t < p.tokens) at.part.y[static_cast<u64>(t) * at.part.rows + at.row] = result[t];
    }
}

#define KERNEL(name, type, tokens)                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                           \
        int8_few_##name##_##tokens(const __grid_constant__ Few p) {                    \
        few<type, tokens>(p);                                                          \
    }
KERNEL(bf16, BF16, 1)
KERNEL(bf16, BF16, 4)
KERNEL(f16, F16, 1)
KERNEL(f16, F16, 4)
