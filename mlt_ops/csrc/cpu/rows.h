// Builds sparse rows in parallel: threads take blocks of rows as they come, each block keeps its own entries, so the
// result depends on no order of execution. Free of PyTorch, so that the thread sanitizer can run it (tests/sanitize).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace mlt_ops {

struct Entry {
  int32_t col;
  float value;
};

struct Csr {
  const int64_t* rowptr;
  const int32_t* col;
  const float* value;
};

inline void sort_by_col(std::vector<Entry>& entries) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.col < b.col; });
}

constexpr int64_t kBlockRows = 32;  // small, because rows differ in work; one block's entries stay in a core's cache

// Entries of the rows begin..end, block by block, and how many each row has. run(work) calls work() in every thread;
// make_worker() gives a thread its worker, called as worker(row, entries), which appends the row's entries.
template <class Run, class MakeWorker>
std::vector<std::vector<Entry>> build_rows(int64_t begin, int64_t end, int64_t* count, const Run& run,
                                           const MakeWorker& make_worker) {
  std::vector<std::vector<Entry>> blocks((end - begin + kBlockRows - 1) / kBlockRows);
  std::atomic<size_t> next{0};
  run([&] {
    auto worker = make_worker();
    for (size_t b = next++; b < blocks.size(); b = next++) {
      const int64_t first = begin + static_cast<int64_t>(b) * kBlockRows;
      for (int64_t row = first; row < std::min(first + kBlockRows, end); ++row) {
        const size_t before = blocks[b].size();
        worker(row, blocks[b]);
        count[row - begin] = static_cast<int64_t>(blocks[b].size() - before);
      }
    }
  });
  return blocks;
}

// Sums over columns for one row at a time: a dense array, of which only the touched part is ever cleared.
class Accumulator {
 public:
  explicit Accumulator(int64_t num_cols) : sum_(num_cols, 0.f), touched_(num_cols + 1) {}

  // Adds value(0), value(1), ..., none negative, to n columns. A column is new as long as its sum is 0; no branch,
  // because it could not be predicted. Local names keep the inner loop in registers.
  template <class Value>
  void add(const int32_t* cols, int64_t n, const Value& value) {
    float* sum = sum_.data();
    int32_t* touched = touched_.data() + num_touched_;
    for (int64_t p = 0; p < n; ++p) {
      const int32_t col = cols[p];
      const float term = value(p), before = sum[col];
      *touched = col;
      touched += (before == 0.f) & (term > 0.f);
      sum[col] = before + term;
    }
    num_touched_ = touched - touched_.data();
  }

  // Calls take(col, sum) for each touched column, in the order of touching, and starts anew.
  template <class Take>
  void drain(const Take& take) {
    for (int64_t i = 0; i < num_touched_; ++i) {
      take(touched_[i], sum_[touched_[i]]);
      sum_[touched_[i]] = 0.f;
    }
    num_touched_ = 0;
  }

 private:
  std::vector<float> sum_;
  std::vector<int32_t> touched_;
  int64_t num_touched_ = 0;
};

}  // namespace mlt_ops
