// Finds races: two threads that touch the same address with no barrier between, not both reading, not both atomically.
// g++ -fsanitize=thread -c calls __tsan_read4 and its kin at each access; here is our own end of these calls, because a
// thread sanitizer knows threads of the operating system only. At some of the accesses another thread goes first.
//
// Volatile accesses count as atomic, as they do in PTX (relaxed). An address stands for the whole access: an overlap of
// accesses of different size that begin elsewhere is not seen. Votes and shuffles order no memory, as on a GPU.
#include <dlfcn.h>

#include <array>
#include <cstdio>
#include <unordered_map>

#include "block.h"

namespace emulate {
namespace {

struct Access {
  unsigned block, thread, barriers;  // by whom, after how many barriers of the block
  bool writes, is_atomic;
  const void* code;  // null: no access
};

struct History {
  Access write{};
  std::array<Access, 2> reads{};  // of two threads
};

std::unordered_map<uint64_t, History> histories;

// Nothing says which comes first; blocks of a kernel are never ordered.
bool concurrent(const Access& before, const Access& now) {
  if (before.code == nullptr) return false;
  return before.block != now.block || (before.thread != now.thread && before.barriers == now.barriers);
}

std::string line_of(const void* code) {
  Dl_info info{};
  if (dladdr(code, &info) == 0) return "?";
  const auto offset = static_cast<const char*>(code) - static_cast<const char*>(info.dli_fbase) - 1;
  char command[512], line[512] = "?";
  std::snprintf(command, sizeof command, "addr2line -e %s 0x%lx", info.dli_fname, static_cast<long>(offset));
  if (FILE* output = popen(command, "r")) {
    if (std::fgets(line, sizeof line, output) == nullptr) line[0] = '\0';
    pclose(output);
  }
  std::string text = line;
  return text.substr(0, text.find_first_of(" \n"));
}

std::string describe(const Access& access) {
  return std::string(access.is_atomic ? "atomic " : "") + (access.writes ? "write" : "read") + " by thread " +
         std::to_string(access.thread) + " of block " + std::to_string(access.block) + ", " + line_of(access.code);
}

void check(const Access& before, const Access& now) {
  if (!concurrent(before, now) || (before.is_atomic && now.is_atomic)) return;
  fail("a race:\n  " + describe(before) + "\n  " + describe(now));
}

void remember(const void* address, bool writes, bool is_atomic, const void* code) {
  const Block& block = *current()->block;
  const Access now{block.index, current()->index, block.barriers, writes, is_atomic, code};
  auto key = reinterpret_cast<uint64_t>(address);
  if (block.shared.contains(address)) key ^= static_cast<uint64_t>(block.index + 1) << 48;  // its own for each block
  History& history = histories[key];
  check(history.write, now);
  if (!writes) {
    history.reads[concurrent(history.reads[0], now)] = now;
    return;
  }
  for (const Access& read : history.reads) check(read, now);
  history = {now, {}};
}

[[maybe_unused]] void touch(const void* address, bool writes, bool is_atomic, const void* code) {
  if (current() == nullptr || on_a_stack(address)) return;
  remember(address, writes, is_atomic, code);
  pause();
}

}  // namespace

void begin_watching() { histories.clear(); }

void on_atomic([[maybe_unused]] const void* address, [[maybe_unused]] const void* code) {
#ifdef EMULATE_RACES
  remember(address, true, true, code);
#endif
}

}  // namespace emulate

#ifdef EMULATE_RACES
#define MLT_HOOK(NAME, WRITES, ATOMIC) \
  void NAME(const void* address) { emulate::touch(address, WRITES, ATOMIC, __builtin_return_address(0)); }
#define MLT_HOOKS(SIZE)                               \
  MLT_HOOK(__tsan_read##SIZE, false, false)           \
  MLT_HOOK(__tsan_write##SIZE, true, false)           \
  MLT_HOOK(__tsan_unaligned_read##SIZE, false, false) \
  MLT_HOOK(__tsan_unaligned_write##SIZE, true, false) \
  MLT_HOOK(__tsan_volatile_read##SIZE, false, true)   \
  MLT_HOOK(__tsan_volatile_write##SIZE, true, true)

extern "C" {
MLT_HOOKS(1)
MLT_HOOKS(2)
MLT_HOOKS(4)
MLT_HOOKS(8)
MLT_HOOKS(16)
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void*, unsigned long) {}
void __tsan_write_range(void*, unsigned long) {}
// The host's shared pointers count with it.
int32_t __tsan_atomic32_fetch_add(volatile int32_t* address, int32_t value, int) {
  return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
}
#endif
