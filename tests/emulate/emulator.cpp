// What kernels and the host call.
#include "emulator.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <stdexcept>

#include "cuda.h"
#include "scheduler.h"

EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

namespace emulate {
namespace {

constexpr int64_t kMaxThreads = 1024;
constexpr int64_t kGranted = 48 << 10;  // bytes of dynamic shared memory without asking

std::map<int64_t, Residents> residents;         // by number of threads
const Residents* working = nullptr;             // those of the kernel that runs
std::map<const void*, int64_t> dynamic_shared;  // what kernels have asked for
Random* dice = nullptr;                         // of the kernel that runs

int64_t from_environment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoll(text);
}

void check(const void* kernel, const Shape& shape) {
  const auto found = dynamic_shared.find(kernel);
  const int64_t allowed = found == dynamic_shared.end() ? kGranted : found->second;
  if (shape.grid < 1 || shape.grid > INT32_MAX || shape.block < 1 || shape.block > kMaxThreads) {
    throw std::runtime_error("no GPU runs " + std::to_string(shape.grid) + " blocks of " + std::to_string(shape.block) +
                             " threads");
  }
  if (static_cast<int64_t>(shape.shared) > allowed) {
    throw std::runtime_error(std::to_string(shape.shared) + " bytes of dynamic shared memory, but only " +
                             std::to_string(allowed) + " were asked for");
  }
}

}  // namespace

bool on_a_stack(const void* address) { return working->stacks().contain(address); }

void run(const void* kernel, const Shape& shape, const std::function<void()>& thread, Site launched) {
  static std::mutex one_at_a_time;
  static uint64_t launches = 0;
  const std::lock_guard lock(one_at_a_time);
  Random random(static_cast<uint64_t>(from_environment("EMULATE_SEED", 0)) << 32 | ++launches);
  dice = &random;
  try {
    check(kernel, shape);
    Residents& places = residents.try_emplace(shape.block, static_cast<unsigned>(shape.block)).first->second;
    places.set_body(thread);
    working = &places;
    blockDim.x = static_cast<unsigned>(shape.block);
    gridDim.x = static_cast<unsigned>(shape.grid);
    let_threads_pause(std::array{0u, 2u, 8u}[random.below(3)]);
    begin_watching();
    Scheduler(shape, places, random).run();
  } catch (const std::runtime_error& error) {
    residents.erase(shape.block);  // its fibers are in the middle of something
    throw std::runtime_error("emulated kernel, launched at " + place(launched) + ": " + error.what());
  }
}

void block_barrier(Site where) { give_way(State::at_barrier, where); }

uint64_t exchange(Exchange kind, unsigned mask, uint64_t given, unsigned source, Site where) {
  Thread& self = *current();
  if ((mask >> self.lane() & 1) == 0) fail("a lane that its own mask leaves out, at " + place(where));
  self.kind = kind;
  self.mask = mask;
  self.given = given;
  self.source = source;
  give_way(State::exchanging, where);
  return self.received;
}

void* shared_memory(size_t bytes, Site where) { return current()->block->shared.variable(bytes, where); }

void* dynamic_shared_memory() { return current()->block->shared.dynamic(); }

void pause() { give_way_sometimes(*dice); }

void allow_dynamic_shared(const void* kernel, int64_t bytes) {
  if (bytes > shared_limit()) throw std::runtime_error("a block has less shared memory than " + std::to_string(bytes));
  dynamic_shared[kernel] = bytes;
}

int64_t shared_limit() { return from_environment("EMULATE_SHARED_BYTES", 64 << 10); }

void fill_with_garbage(void* memory, size_t bytes) {
  thread_local Random random(0);
  std::fill_n(static_cast<uint8_t*>(memory), bytes, static_cast<uint8_t>(1 + random.below(255)));
}

}  // namespace emulate

int32_t atomicAdd(int32_t* address, int32_t value) {
  emulate::pause();
  emulate::on_atomic(address, __builtin_return_address(0));
  const int32_t before = *address;
  *address = before + value;
  return before;
}

int32_t atomicCAS(int32_t* address, int32_t expected, int32_t desired) {
  emulate::pause();
  emulate::on_atomic(address, __builtin_return_address(0));
  const int32_t before = *address;
  if (before == expected) *address = desired;
  return before;
}
