#include "block.h"

#include <cstring>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace emulate {
namespace {

constexpr size_t kStaticLimit = 48 << 10;  // what a GPU grants without being asked
constexpr size_t kAlignment = 128, kGap = 128;

void forbid([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(memory, bytes);
#endif
}

void permit([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(memory, bytes);
#endif
}

}  // namespace

SharedMemory::SharedMemory() : memory_(new uint8_t[kBytes]) {}

SharedMemory::~SharedMemory() { permit(memory_.get(), kBytes); }

void SharedMemory::renew(uint8_t garbage, size_t dynamic_bytes) {
  garbage_ = garbage;
  variables_.clear();
  used_ = declared_ = 0;
  forbid(memory_.get(), kBytes);
  dynamic_ = take(dynamic_bytes);
}

void* SharedMemory::variable(size_t bytes, Site where) {
  for (const Variable& known : variables_) {
    if (known.line == where.line() && known.column == where.column()) return known.address;
  }
  declared_ += bytes;
  if (declared_ > kStaticLimit) fail("__shared__ variables of more than " + std::to_string(kStaticLimit) + " bytes");
  variables_.push_back({where.line(), where.column(), take(bytes)});
  return variables_.back().address;
}

void* SharedMemory::take(size_t bytes) {
  uint8_t* address = memory_.get() + used_;
  used_ += (bytes + kGap + kAlignment - 1) / kAlignment * kAlignment;
  permit(address, bytes);
  memset(address, garbage_, bytes);
  return address;
}

bool SharedMemory::contains(const void* address) const {
  const auto* byte = static_cast<const uint8_t*>(address);
  return memory_.get() <= byte && byte < memory_.get() + kBytes;
}

}  // namespace emulate
