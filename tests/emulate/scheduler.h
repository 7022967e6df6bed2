// Which thread of a kernel runs next, and when those that wait for one another may go on.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "block.h"
#include "emulator.h"
#include "fiber.h"

namespace emulate {

// Blocks of one size with their fibers, kept from kernel to kernel.
class Residents {
 public:
  static constexpr unsigned kBlocks = 4;  // that run at a time, at most

  explicit Residents(unsigned threads);

  Block& block(unsigned slot) { return *blocks_[slot]; }
  const Stacks& stacks() const { return stacks_; }
  void set_body(const std::function<void()>& body) { body_ = &body; }  // what each thread does

 private:
  void prepare(Block& block, unsigned slot, unsigned threads);

  Stacks stacks_;
  std::vector<std::unique_ptr<Block>> blocks_;
  const std::function<void()>* body_ = nullptr;
};

class Scheduler {
 public:
  Scheduler(const Shape& shape, Residents& places, Random& random);

  void run();  // throws std::runtime_error

 private:
  void start_next(Block& block);
  void make_ready(Thread& thread);
  void take_out(Thread& thread);
  Thread& pick();
  void settle(Thread& thread);
  void finish_barrier(Block& block);
  void finish_exchange(Warp& warp, unsigned mask);

  Shape shape_;
  Random& random_;
  std::vector<unsigned> order_;  // of the blocks
  size_t started_ = 0;           // of them
  unsigned stay_;                // with a warp for so many steps on average; 0: for one
  std::vector<Block*> blocks_;   // that run at a time
  std::vector<Warp*> active_;    // have lanes that may run
  Warp* last_ = nullptr;
};

std::string place(Site where);
void give_way(State state, Site where);   // by a thread: returns when it may go on
void give_way_sometimes(Random& random);  // at one in some chances
void let_threads_pause(unsigned one_in);  // 0: never; of the kernel that runs

}  // namespace emulate
