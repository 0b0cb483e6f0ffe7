// Attention of one new position a sequence, which joins the cache.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
//
// The keys are split over blocks ("flash-decoding", Dao et al. 2023): a block of 4 warps takes one query head of one
// sequence and one share of its positions; the last block of a head to finish merges what all found, in the order of the
// shares, so that the same input gives the same bits. The position is read from the device, so that a recorded launch
// serves every step. Scores, maxima, sums and the output accumulate in f32 for every type.
#include "numbers.cuh"
#include "overlap.cuh"

namespace {

constexpr int WARPS = 4;
// Positions that a warp loads at once.
constexpr int AHEAD = 4;
constexpr float LOG2_E = 1.4426950408889634f;

// Mirrors the launcher's structure of the same name.
struct Step {
    // Queries and output: [batch, heads · head_dim]; the new keys and values: [batch, kv_heads · head_dim].
    const void *q;
    const void *new_k;
    const void *new_v;
    // Sequence b starts at element b · kv_stride; positions follow each other.
    void *k;
    void *v;
    // Sequence b starts at byte b · mask_stride; 1 for a token; null where every position is one.
    const u8 *mask;
    // What the new position is called; so many stand in the cache before it.
    const int *position;
    // [head_dim / 2]: what queries and new keys are to be turned by (rope.cu); null where they have been.
    const float *cos;
    const float *sin;
    void *out;
    // [batch · heads, shares, 2 + head_dim]: maximum, sum, sums of the values.
    float *found;
    // [batch · heads], zeros before and after.
    u32 *finished;
    long long kv_stride;
    long long mask_stride;
    int heads;
    int kv_heads;
    int head_dim;
    // 0 for none.
    int window;
    float scale;
};

template <class T>
struct Pair;
template <>
struct Pair<F32> {
    typedef float2 bits;
    static __device__ __forceinline__ float2 widen(float2 bits) { return bits; }
    static __device__ __forceinline__ bits zero() { return make_float2(0, 0); }
};
template <>
struct Pair<F16> {
    typedef u32 bits;
    static __device__ __forceinline__ float2 widen(u32 bits) {
        return make_float2(F16::widen(static_cast<u16>(bits)), F16::widen(static_cast<u16>(bits >> 16)));
    }
    static __device__ __forceinline__ bits zero() { return 0; }
};
template <>
struct Pair<BF16> {
    typedef u32 bits;
    static __device__ __forceinline__ float2 widen(u32 bits) {
        return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
    }
    static __device__ __forceinline__ bits zero() { return 0; }
};

// The factor that brings a sum counted from maximum `from` to one counted from `to`; 0 where nothing was seen.
__device__ __forceinline__ float shrink(float from, float to) { return from == -INFINITY ? 0.0f : exp2f(from - to); }

template <class T, int PAIRS>
__device__ void attend(const Step &a) {
    typedef typename Pair<T>::bits Bits;
    typedef typename T::storage Element;
    __shared__ float maxima[WARPS], sums[WARPS], outs[WARPS][PAIRS * 64];
    __shared__ u32 before;
    __shared__ alignas(16) Element turned[2][PAIRS * 64];

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int head = blockIdx.y, sequence = blockIdx.z, shares = gridDim.x;
    const int width = a.head_dim, pairs = width / 2;
    const int kv_head = head / (a.heads / a.kv_heads);
    const long long kv_row = static_cast<long long>(a.kv_heads) * width;
    const long long new_at = sequence * kv_row + kv_head * width;
    const long long row_at = static_cast<long long>(sequence) * a.heads + head;
    const Bits *q = reinterpret_cast<const Bits *>(static_cast<const Element *>(a.q) + row_at * width);
    const Bits *new_k = reinterpret_cast<const Bits *>(static_cast<const Element *>(a.new_k) + new_at);
    const Bits *new_v = reinterpret_cast<const Bits *>(static_cast<const Element *>(a.new_v) + new_at);
    Element *const k = static_cast<Element *>(a.k) + sequence * a.kv_stride + kv_head * width;
    Element *const v = static_cast<Element *>(a.v) + sequence * a.kv_stride + kv_head * width;
    const u8 *mask = a.mask ? a.mask + sequence * a.mask_stride : nullptr;

    end_of_overlap();
    if (a.cos) {
        const int half = width / 2;
        for (int col = threadIdx.x; col < width; col += WARPS * 32) {
            const bool second = col >= half;
            const float c = a.cos[col % half], s = second ? a.sin[col % half] : -a.sin[col % half];
            const int other = second ? col - half : col + half;
#pragma unroll
            for (int which = 0; which < 2; ++which) {
                const Element *from = reinterpret_cast<const Element *>(which ? new_k : q);
                turned[which][col] = T::narrow(T::widen(from[col]) * c + T::widen(from[other]) * s);
            }
        }
        __syncthreads();
        q = reinterpret_cast<const Bits *>(turned[0]);
        new_k = reinterpret_cast<const Bits *>(turned[1]);
    }
    const int position = *a.position;
    const int first = a.window && position - a.window + 1 > 0 ? position - a.window + 1 : 0;
    const int share = ((position + 1 - first + shares - 1) / shares + WARPS * AHEAD - 1) / (WARPS * AHEAD) * (WARPS * AHEAD);
    const int begin = first + blockIdx.x * share;
    const int end = min(begin + share, position + 1);

    // Nobody reads the cache at the new position in this launch, so any block may write there; one a key head does.
    if (blockIdx.x == 0 && head % (a.heads / a.kv_heads) == 0) {
        Bits *const to_k = reinterpret_cast<Bits *>(k + position * kv_row);
        Bits *const to_v = reinterpret_cast<Bits *>(v + position * kv_row);
        for (int pair = threadIdx.x; pair < pairs; pair += WARPS * 32) {
            to_k[pair] = new_k[pair];
            to_v[pair] = new_v[pair];
        }
    }

    float2 query[PAIRS], out[PAIRS];
#pragma unroll
    for (int p = 0; p < PAIRS; ++p) {
        const int pair = lane + 32 * p;
        query[p] = pair < pairs ? Pair<T>::widen(q[pair]) : make_float2(0, 0);
        out[p] = make_float2(0, 0);
    }
    float maximum = -INFINITY, sum = 0;
    for (int at = begin + warp * AHEAD; at < end; at += WARPS * AHEAD) {
        Bits key[AHEAD][PAIRS], value[AHEAD][PAIRS];
        bool seen[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            seen[i] = at + i < end && !(mask && !mask[at + i]);
            const bool is_new = at + i == position;
            const Bits *from_k = is_new ? new_k : reinterpret_cast<const Bits *>(k + (at + i) * kv_row);
            const Bits *from_v = is_new ? new_v : reinterpret_cast<const Bits *>(v + (at + i) * kv_row);
#pragma unroll
            for (int p = 0; p < PAIRS; ++p) {
                const int pair = lane + 32 * p;
                const bool there = seen[i] && pair < pairs;
                key[i][p] = there ? from_k[pair] : Pair<T>::zero();
                value[i][p] = there ? from_v[pair] : Pair<T>::zero();
            }
        }
        float score[AHEAD], highest = maximum;
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            score[i] = 0;
#pragma unroll
            for (int p = 0; p < PAIRS; ++p) {
                const float2 x = Pair<T>::widen(key[i][p]);
                score[i] = fmaf(query[p].x, x.x, fmaf(query[p].y, x.y, score[i]));
            }
#pragma unroll
            for (int offset = 16; offset > 0; offset /= 2) score[i] += __shfl_xor_sync(~0u, score[i], offset);
            score[i] = seen[i] ? score[i] * a.scale * LOG2_E : -INFINITY;
            highest = fmaxf(highest, score[i]);
        }
        const float base = highest == -INFINITY ? 0.0f : highest;
        const float factor = shrink(maximum, highest);
        sum *= factor;
#pragma unroll
        for (int p = 0; p < PAIRS; ++p) {
            out[p].x *= factor;
            out[p].y *= factor;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const float weight = exp2f(score[i] - base);
            sum += weight;
#pragma unroll
            for (int p = 0; p < PAIRS; ++p) {
                const float2 x = Pair<T>::widen(value[i][p]);
                out[p].x = fmaf(weight, x.x, out[p].x);
                out[p].y = fmaf(weight, x.y, out[p].y);
            }
        }
        maximum = highest;
    }

#pragma unroll
    for (int p = 0; p < PAIRS; ++p)
        *reinterpret_cast<float2 *>(&outs[warp][2 * (lane + 32 * p)]) = out[p];
    if (lane == 0) {
        maxima[warp] = maximum;
        sums[warp] = sum;
    }
    __syncthreads();
    float highest = -INFINITY, total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) highest = fmaxf(highest, maxima[w]);
#pragma unroll
    for (int w = 0; w < WARPS; ++w) total += shrink(maxima[w], highest) * sums[w];

    Element *const to = static_cast<Element *>(a.out) + row_at * width;
    float *const found = a.found + row_at * shares * (2 + width);
    float *const mine = found + blockIdx.x * (2 + width);
    for (int col = threadIdx.x; col < width; col += WARPS * 32) {
        float value = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) value += shrink(maxima[w], highest) * outs[w][col];
        if (shares == 1)
            to[col] = T::narrow(total == 0 ? 0.0f : value / total);
        else
            mine[2 + col] = value;
    }
    if (shares == 1) return;
    if (threadIdx.x == 0) {
        mine[0] = highest;
        mine[1] = total;
    }
    __threadfence();
    __syncthreads();
    // Goes back to zero with the last block.
    if (threadIdx.x == 0) before = atomicInc(a.finished + row_at, shares - 1);
    __syncthreads();
    if (before != shares - 1) return;
    __threadfence();

    highest = -INFINITY;
    total = 0;
    // Unrolled, so that the loads of several shares are on their way at once.
#pragma unroll 8
    for (int s = 0; s < shares; ++s) highest = fmaxf(highest, __ldcg(found + s * (2 + width)));
#pragma unroll 8
    for (int s = 0; s < shares; ++s)
        total += shrink(__ldcg(found + s * (2 + width)), highest) * __ldcg(found + s * (2 + width) + 1);
    for (int col = threadIdx.x; col < width; col += WARPS * 32) {
        float value = 0;
#pragma unroll 8
        for (int s = 0; s < shares; ++s)
            value += shrink(__ldcg(found + s * (2 + width)), highest) * __ldcg(found + s * (2 + width) + 2 + col);
        to[col] = T::narrow(total == 0 ? 0.0f : value / total);
    }
}

}  // namespace

#define DEFINE_PAIRS(T, NAME, PAIRS)                                                                               \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                       \
        attention_step_##NAME##_##PAIRS(const __grid_constant__ Step a) {                                          \
        attend<T, PAIRS>(a);                                                                                       \
    }
#define DEFINE(T, NAME)       \
    DEFINE_PAIRS(T, NAME, 1)  \
    DEFINE_PAIRS(T, NAME, 2)  \
    DEFINE_PAIRS(T, NAME, 3)  \
    DEFINE_PAIRS(T, NAME, 4)
DEFINE(F32, f32)
DEFINE(F16, f16)
DEFINE(BF16, bf16)
