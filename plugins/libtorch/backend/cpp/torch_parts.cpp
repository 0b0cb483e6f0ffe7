// What tch does not offer: memory that is counted, streams, events, the version.
//
// Only interfaces of libc10 and libtorch_cpu are used, which libtorch_cuda implements when it is there: nothing here needs
// CUDA to compile, to link, or to load. No exception leaves a function: each gives 0, or 1 with the reason in `reason()`.

#include <ATen/Context.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/core/impl/alloc_cpu.h>
#include <malloc.h>
#include <torch/headeronly/version.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

namespace {

thread_local std::string last_error;

template <typename F>
int guarded(F&& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "an exception without a text";
  }
  return 1;
}

std::atomic<int64_t> live{0}, peak{0};

// As torch's default allocator for the CPU, but counted: the bytes that malloc sets aside, so that a block counts the
// same when it is freed.
struct CountingAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* block = c10::alloc_cpu(bytes);
    if (block != nullptr) {
      int64_t size = malloc_usable_size(block);
      int64_t now = live.fetch_add(size) + size;
      int64_t most = peak.load();
      while (now > most && !peak.compare_exchange_weak(most, now)) {
      }
    }
    return {block, block, &release, c10::Device(c10::DeviceType::CPU)};
  }
  static void release(void* block) {
    if (block != nullptr) {
      live.fetch_sub(malloc_usable_size(block));
      c10::free_cpu(block);
    }
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &release;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

c10::DeviceAllocator& cuda_allocator() {
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
  TORCH_CHECK(allocator != nullptr && allocator->initialized(), "torch's CUDA allocator is not running");
  return *allocator;
}

c10::Device cuda_device(int device) {
  return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)};
}

c10::Stream current_stream(int device) {
  return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(cuda_device(device));
}

}  // namespace

extern "C" {

const char* qbench_torch_reason() {
  return last_error.c_str();
}

const char* qbench_torch_headers() {
  return TORCH_VERSION;
}

// Has torch allocate on the CPU through the counter. To be called before any tensor that is to be counted.
void qbench_torch_count_cpu() {
  static CountingAllocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/100);
}

void qbench_torch_cpu_memory(int64_t* allocated, int64_t* most) {
  *allocated = live.load();
  *most = peak.load();
}

void qbench_torch_cpu_reset_peak() {
  peak.store(live.load());
}

// Bytes allocated now, at most, and held from the device.
int qbench_torch_cuda_memory(int device, int64_t* allocated, int64_t* most, int64_t* reserved) {
  return guarded([&] {
    auto statistics = cuda_allocator().getDeviceStats(device);
    *allocated = statistics.allocated_bytes[0].current;
    *most = statistics.allocated_bytes[0].peak;
    *reserved = statistics.reserved_bytes[0].current;
  });
}

int qbench_torch_cuda_reset_peak(int device) {
  return guarded([&] { cuda_allocator().resetPeakStats(device); });
}

// Makes a device the one that this thread's CUDA calls go to.
int qbench_torch_cuda_set_device(int device) {
  return guarded([&] { c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).setDevice(cuda_device(device)); });
}

// The stream that torch's operations of this thread run on, as the driver knows it.
int qbench_torch_cuda_stream(int device, void** stream) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    *stream = guard.getStreamNativeHandle(guard.getStream(cuda_device(device)));
  });
}

// Whether attention may be cuDNN's.
void qbench_torch_cuda_cudnn_attention(int allowed) {
  at::globalContext().setSDPUseCuDNN(allowed != 0);
}

// An event with a time.
int qbench_torch_cuda_event(c10::Event** event) {
  return guarded([&] { *event = new c10::Event(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT); });
}

void qbench_torch_cuda_event_free(c10::Event* event) {
  guarded([&] { delete event; });
}

int qbench_torch_cuda_event_record(c10::Event* event, int device) {
  return guarded([&] { event->record(current_stream(device)); });
}

// Milliseconds between two events, once both have passed.
int qbench_torch_cuda_event_elapsed(const c10::Event* first, const c10::Event* second, double* milliseconds) {
  return guarded([&] {
    second->synchronize();
    *milliseconds = first->elapsedTime(*second);
  });
}

int qbench_torch_cuda_synchronize(int device) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).synchronizeDevice(device);
  });
}

}
