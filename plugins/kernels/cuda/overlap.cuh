// Kernels that start while the one before them still runs ("programmatic dependent launch").
#pragma once

// From here on, what kernels before this one have written may be read, and the next one may start. Belongs before a
// kernel's first access to memory, but for what it reads of a weight. Where a kernel was not launched to overlap, this
// does nothing.
static __device__ __forceinline__ void end_of_overlap() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
