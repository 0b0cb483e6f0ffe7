// The gate of an MLP.
#pragma once

// gate / (1 + e^-gate) · up
static __device__ __forceinline__ float silu_times(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }
