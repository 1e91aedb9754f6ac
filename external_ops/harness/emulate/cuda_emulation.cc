// Fibers, barriers and warp exchanges of cuda_emulation.h.
#include "cuda_emulation.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;
int paddlemix_emulation_multiprocessors = 4, paddlemix_emulation_capability = 8;

extern "C" {
// Whether blocks and threads run from the last to the first.
int paddlemix_emulation_descending = 0;
void paddlemix_emulation_set_multiprocessors(int count) { paddlemix_emulation_multiprocessors = count; }
void paddlemix_emulation_set_capability(int major) { paddlemix_emulation_capability = major; }
}

namespace paddlemix_emulation {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr unsigned kWarp = 32;

// A place where fibers wait for each other. Passing it twice in a row needs every fiber between, so two sets of values
// are enough: nobody writes the next but one before all have read.
struct Meeting {
  unsigned arrived = 0;
  uint64_t round = 0;
  uint64_t values[2][kWarp] = {};
};

struct Fiber {
  ucontext_t context;
  jmp_buf resume;
  bool entered = false;
  std::unique_ptr<char[]> stack;
  dim3 index;
  unsigned linear = 0;
  bool done = true;
  const uint64_t* waits_for = nullptr;  // the round of a meeting, until it differs from `seen`
  uint64_t seen = 0;
};

std::vector<std::unique_ptr<Fiber>> fibers;
[[maybe_unused]] ucontext_t scheduler;
Fiber* current = nullptr;
const std::function<void()>* body = nullptr;
Meeting block_meeting;
std::vector<Meeting> warp_meetings;
unsigned threads = 0;
std::unique_ptr<char[]> shared;
cudaError_t last_error = cudaSuccess;

#if defined(__SANITIZE_ADDRESS__)
// AddressSanitizer is told of each change of stacks.
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;

void switch_to_fiber(Fiber* fiber) {
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fiber->stack.get(), kStackBytes);
  swapcontext(&scheduler, &fiber->context);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}
void entered_fiber(void* fake_stack) {
  __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack, &scheduler_stack_bytes);
}
void switch_to_scheduler(Fiber* fiber) {
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, scheduler_stack, scheduler_stack_bytes);
  swapcontext(&fiber->context, &scheduler);
  entered_fiber(fake_stack);
}
#else
// swapcontext asks the kernel for the signal mask each time; jumps do not. Only the first entry needs a context.
jmp_buf scheduler_resume;

void switch_to_fiber(Fiber* fiber) {
  if (_setjmp(scheduler_resume) != 0) return;
  if (fiber->entered) _longjmp(fiber->resume, 1);
  fiber->entered = true;
  setcontext(&fiber->context);
}
void entered_fiber(void*) {}
void switch_to_scheduler(Fiber* fiber) {
  if (_setjmp(fiber->resume) == 0) _longjmp(scheduler_resume, 1);
}
#endif

// A fiber lives on: after one thread of one block it waits to become a thread of the next.
void fiber_main() {
  entered_fiber(nullptr);
  for (;;) {
    Fiber* self = current;
    (*body)();
    self->done = true;
    switch_to_scheduler(self);
  }
}

void start(Fiber* fiber) {
  fiber->stack.reset(new char[kStackBytes]);
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, fiber_main, 0);
}

void wait_for(const uint64_t* round) {
  current->waits_for = round;
  current->seen = *round;
  switch_to_scheduler(current);
}

// Runs each thread of a warp to its next meeting; false if all wait or are done.
bool run_warp(unsigned warp) {
  bool progress = false;
  const unsigned first = warp * kWarp, count = threads - first < kWarp ? threads - first : kWarp;
  for (unsigned i = 0; i < count; ++i) {
    Fiber* fiber = fibers[first + (paddlemix_emulation_descending ? count - 1 - i : i)].get();
    if (fiber->done || (fiber->waits_for != nullptr && *fiber->waits_for == fiber->seen)) continue;
    fiber->waits_for = nullptr;
    current = fiber;
    threadIdx = fiber->index;
    switch_to_fiber(fiber);
    progress = true;
  }
  return progress;
}

// Runs all threads of the block to their ends; false if some wait for others that will not come. A warp runs as far as
// it can before the next one does, so that a barrier that should have held it back is missed.
bool run_block() {
  const unsigned warps = (threads + kWarp - 1) / kWarp;
  bool progress = true;
  while (progress) {
    progress = false;
    for (unsigned i = 0; i < warps; ++i) {
      while (run_warp(paddlemix_emulation_descending ? warps - 1 - i : i)) progress = true;
    }
  }
  for (unsigned i = 0; i < threads; ++i) {
    if (!fibers[i]->done) return false;
  }
  return true;
}

}  // namespace

void sync_block() {
  if (++block_meeting.arrived < threads) {
    wait_for(&block_meeting.round);
  } else {
    block_meeting.arrived = 0;
    ++block_meeting.round;
  }
}

int lane() { return static_cast<int>(current->linear % kWarp); }

const uint64_t* exchange(unsigned mask, uint64_t bits) {
  const unsigned first = current->linear / kWarp * kWarp;
  const unsigned count = threads - first < kWarp ? threads - first : kWarp;
  if (count == kWarp ? mask != 0xffffffffu : mask << (kWarp - count) != 0xffffffffu << (kWarp - count)) {
    fprintf(stderr, "cuda emulation: a warp exchange with the mask %08x; only whole warps are emulated\n", mask);
    abort();
  }
  Meeting& meeting = warp_meetings[current->linear / kWarp];
  uint64_t* values = meeting.values[meeting.round % 2];
  values[lane()] = bits;
  if (++meeting.arrived < count) {
    wait_for(&meeting.round);
  } else {
    meeting.arrived = 0;
    ++meeting.round;
  }
  return values;
}

void* dynamic_shared() { return shared.get(); }

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread) {
  const uint64_t count = static_cast<uint64_t>(block.x) * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
      count == 0 || count > 1024 || block.z > 64) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  threads = static_cast<unsigned>(count);
  gridDim = grid;
  blockDim = block;
  body = &thread;
  while (fibers.size() < threads) {
    fibers.emplace_back(new Fiber);
    start(fibers.back().get());
  }
  for (uint64_t b = 0, blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z; b < blocks; ++b) {
    const uint64_t at = paddlemix_emulation_descending ? blocks - 1 - b : b;
    blockIdx = dim3(static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                    static_cast<unsigned>(at / grid.x / grid.y));
    shared.reset(new char[shared_bytes]);
    memset(shared.get(), 0xff, shared_bytes);
    block_meeting = Meeting();
    warp_meetings.assign((threads + kWarp - 1) / kWarp, Meeting());
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& fiber = *fibers[i];
      fiber.linear = i;
      fiber.index = dim3(i % block.x, i / block.x % block.y, i / block.x / block.y);
      fiber.done = false;
      fiber.waits_for = nullptr;
    }
    if (!run_block()) {
      fprintf(stderr, "cuda emulation: in block (%u, %u, %u) some threads wait at a barrier that others never reach\n",
              blockIdx.x, blockIdx.y, blockIdx.z);
      last_error = cudaErrorLaunchFailure;
      fibers.clear();  // they stand in the middle of the kernel
      return;
    }
  }
}

}  // namespace paddlemix_emulation

cudaError_t cudaGetLastError() {
  const cudaError_t error = paddlemix_emulation::last_error;
  paddlemix_emulation::last_error = cudaSuccess;
  return error;
}

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  memset(address, value, bytes);
  return cudaSuccess;
}
