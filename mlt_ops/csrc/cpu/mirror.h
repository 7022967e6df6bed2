// Rows of a symmetric matrix from its lower triangle, one at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rows.h"

namespace mlt_ops {

// A row holds its part of the lower triangle and its column of it, under the numbers that rows and columns shall have:
// row i is what was row place[i], and order is the inverse of place.
class MirrorWorker {
 public:
  MirrorWorker(const Csr& lower, const Csr& columns, const int32_t* order, const int32_t* place)
      : lower_(lower), columns_(columns), order_(order), place_(place) {}

  void operator()(int64_t row, std::vector<Entry>& out) {
    const int32_t self = place_[row];
    entries_.clear();
    for (int64_t p = lower_.rowptr[self]; p < lower_.rowptr[self + 1]; ++p) {
      entries_.push_back({order_[lower_.col[p]], lower_.value[p]});
    }
    for (int64_t p = columns_.rowptr[self]; p < columns_.rowptr[self + 1]; ++p) {
      if (columns_.col[p] != self) entries_.push_back({order_[columns_.col[p]], columns_.value[p]});
    }
    sort_by_col(entries_);
    out.insert(out.end(), entries_.begin(), entries_.end());
  }

 private:
  const Csr &lower_, &columns_;
  const int32_t *order_, *place_;
  std::vector<Entry> entries_;
};

}  // namespace mlt_ops
