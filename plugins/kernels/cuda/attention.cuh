// What every attention kernel is told. Mirrors the launcher's structure of the same name.
#pragma once

struct Attention {
    // Queries and output: [batch · length, heads · head_dim].
    const void *q;
    // Keys and values: sequence b starts at element b · kv_stride, its positions follow each other,
    // kv_heads · head_dim elements each.
    const void *k;
    const void *v;
    // [batch, past + length], 1 for a token; null where every position is one.
    const unsigned char *mask;
    void *out;
    long long kv_stride;
    int heads;
    int kv_heads;
    int head_dim;
    // Queries a sequence; query i stands at position past + i.
    int length;
    int past;
    // 0 for none.
    int window;
    int causal;
    float scale;
};

// Keys that the queries first .. last (positions) may see, as a half-open range.
struct KeyRange {
    int begin;
    int end;
};

__device__ __forceinline__ KeyRange visible_keys(const Attention &a, int first, int last) {
    const int positions = a.past + a.length;
    KeyRange range = {0, positions};
    if (a.causal && last + 1 < positions) range.end = last + 1;
    if (a.window && first - a.window + 1 > 0) range.begin = first - a.window + 1;
    return range;
}

__device__ __forceinline__ bool hidden(const Attention &a, const unsigned char *mask, int query, int key) {
    return key >= a.past + a.length || (a.causal && key > query) || (a.window && key + a.window <= query) ||
           (mask && !mask[key]);
}
