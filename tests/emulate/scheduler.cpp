#include "scheduler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <numeric>
#include <sstream>
#include <stdexcept>

#include "cuda.h"

namespace emulate {
namespace {

constexpr uint64_t kPatience = 1 << 26;

thread_local Thread* running = nullptr;
thread_local std::string failure;
unsigned pause_in = 0;
uint64_t chances = 0;  // to pause, since a thread last reached something

Warp& warp_of(const Thread& thread) { return thread.block->warps[thread.index / kWarpSize]; }

void enter(Thread& thread) {
  threadIdx.x = thread.index;
  blockIdx.x = thread.block->index;
  running = &thread;
  thread.fiber->resume();
  running = nullptr;
}

std::string doing(const Thread& thread) {
  if (thread.state == State::at_barrier) return "at __syncthreads, " + place(thread.where);
  if (thread.state == State::exchanging) return "at a *_sync of their warp, " + place(thread.where);
  return thread.state == State::finished ? "have returned" : "run";
}

std::string who_waits(const Block& block) {
  std::map<std::string, std::vector<unsigned>> groups;
  for (const auto& thread : block.threads) groups[doing(*thread)].push_back(thread->index);
  std::ostringstream text;
  for (const auto& [what, threads] : groups) {
    text << "\n  " << threads.size() << " threads " << what << ": " << threads.front();
    if (threads.size() > 1) text << ", ..., " << threads.back();
  }
  return text.str();
}

}  // namespace

std::string place(Site where) { return std::string(where.file_name()) + ":" + std::to_string(where.line()); }

Thread* current() { return running; }

void give_way(State state, Site where) {
  Thread& self = *running;
  self.where = where;
  self.state = state;
  self.fiber->yield();
}

void give_way_sometimes(Random& random) {
  if (++chances > kPatience) fail("threads go round and round");
  if (pause_in > 0 && random.one_in(pause_in)) give_way(State::running, Site::current());
}

void let_threads_pause(unsigned one_in) {
  pause_in = one_in;
  chances = 0;
}

void fail(const std::string& what) {
  failure = what;
  give_way(State::failed, Site::current());
  std::abort();  // a failed thread is never resumed
}

Residents::Residents(unsigned threads) : stacks_(static_cast<size_t>(threads) * kBlocks) {
  for (unsigned slot = 0; slot < kBlocks; ++slot) prepare(*blocks_.emplace_back(new Block), slot, threads);
}

void Residents::prepare(Block& block, unsigned slot, unsigned threads) {
  block.warps.resize((threads + kWarpSize - 1) / kWarpSize);
  for (unsigned i = 0; i < threads; ++i) {
    Thread& thread = *block.threads.emplace_back(new Thread{});
    thread.block = &block;
    thread.index = i;
    thread.fiber.emplace(stacks_.bottom(slot * threads + i), [this, &thread] {
      (*body_)();
      thread.state = State::finished;
    });
    block.warps[i / kWarpSize].lanes.push_back(&thread);
  }
}

Scheduler::Scheduler(const Shape& shape, Residents& places, Random& random)
    : shape_(shape), random_(random), order_(shape.grid), stay_(std::array{0u, 10u, 1000u}[random.below(3)]) {
  std::iota(order_.begin(), order_.end(), 0u);
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.below(i)]);
  const unsigned together = 1 + random.below(Residents::kBlocks);
  for (unsigned slot = 0; slot < together; ++slot) blocks_.push_back(&places.block(slot));
}

void Scheduler::run() {
  for (Block* block : blocks_) start_next(*block);
  while (!active_.empty()) {
    Thread& thread = pick();
    enter(thread);
    settle(thread);
  }
  for (const Block* block : blocks_) {
    if (block->live == 0) continue;
    throw std::runtime_error("threads of block " + std::to_string(block->index) + " wait forever:" + who_waits(*block));
  }
}

void Scheduler::start_next(Block& block) {
  if (started_ == order_.size()) return;
  block.index = order_[started_++];
  block.live = static_cast<unsigned>(shape_.block);
  block.waiting = block.barriers = 0;
  block.shared.renew(static_cast<uint8_t>(1 + random_.below(255)), shape_.shared);
  for (Warp& warp : block.warps) warp.live = warp.waiting = 0;
  for (auto& thread : block.threads) {
    warp_of(*thread).live |= 1u << thread->lane();
    make_ready(*thread);
  }
}

void Scheduler::make_ready(Thread& thread) {
  thread.state = State::running;
  Warp& warp = warp_of(thread);
  if (warp.ready == 0) active_.push_back(&warp);
  warp.ready |= 1u << thread.lane();
}

void Scheduler::take_out(Thread& thread) {
  Warp& warp = warp_of(thread);
  warp.ready &= ~(1u << thread.lane());
  if (warp.ready == 0) std::erase(active_, &warp);
}

// A random lane of a random warp; some kernels stay with a warp for long, so that it runs far ahead of others.
Thread& Scheduler::pick() {
  if (last_ == nullptr || last_->ready == 0 || stay_ == 0 || random_.one_in(stay_)) {
    last_ = active_[random_.below(active_.size())];
  }
  const int from = static_cast<int>(random_.below(kWarpSize));
  return *last_->lanes[(std::countr_zero(std::rotr(last_->ready, from)) + from) % kWarpSize];
}

// The thread has stopped: lets those go on that have waited for it.
void Scheduler::settle(Thread& thread) {
  if (thread.state == State::running) return;
  chances = 0;
  if (thread.state == State::failed) throw std::runtime_error(failure);
  take_out(thread);
  Block& block = *thread.block;
  Warp& warp = warp_of(thread);
  if (thread.state == State::exchanging) {
    warp.waiting |= 1u << thread.lane();
    return finish_exchange(warp, thread.mask);
  }
  if (thread.state == State::at_barrier) {
    if (++block.waiting == block.threads.size()) finish_barrier(block);
    return;
  }
  warp.live &= ~(1u << thread.lane());  // returned: nobody waits for it in an exchange any more
  for (uint32_t left = warp.waiting; left != 0; left &= left - 1) {
    finish_exchange(warp, warp.lanes[std::countr_zero(left)]->mask);
  }
  if (--block.live == 0) start_next(block);
}

void Scheduler::finish_barrier(Block& block) {
  for (auto& thread : block.threads) {
    if (thread->where.line() != block.threads.front()->where.line()) {
      throw std::runtime_error("threads of one block meet at different barriers:" + who_waits(block));
    }
  }
  block.waiting = 0;
  ++block.barriers;
  for (auto& thread : block.threads) make_ready(*thread);
}

// If all lanes of the mask that have not returned are there, at the same place.
void Scheduler::finish_exchange(Warp& warp, unsigned mask) {
  const uint32_t there = mask & warp.live;
  if (there == 0 || (there & ~warp.waiting) != 0) return;
  const Thread& first = *warp.lanes[std::countr_zero(there)];
  uint32_t votes = 0;
  for (uint32_t left = there; left != 0; left &= left - 1) {
    const Thread& thread = *warp.lanes[std::countr_zero(left)];
    if (thread.mask != mask || thread.kind != first.kind || thread.where.line() != first.where.line()) return;
    votes |= static_cast<uint32_t>(thread.given != 0) << thread.lane();
  }
  for (uint32_t left = there; left != 0; left &= left - 1) {
    Thread& thread = *warp.lanes[std::countr_zero(left)];
    if (thread.kind == Exchange::ballot) {
      thread.received = votes;
    } else if ((there >> thread.source & 1) != 0) {
      thread.received = warp.lanes[thread.source]->given;
    } else {
      throw std::runtime_error("a lane takes from lane " + std::to_string(thread.source) + ", which is not there, at " +
                               place(thread.where));
    }
    make_ready(thread);
  }
  warp.waiting &= ~there;
}

}  // namespace emulate
