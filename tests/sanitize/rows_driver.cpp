// The row builders under the thread sanitizer, with std::thread instead of PyTorch's threads (`make sanitize`): one
// thread and four must build the same rows.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "cpu/jaccard.h"
#include "cpu/k_reciprocal.h"
#include "cpu/mirror.h"
#include "cpu/nearest.h"

using mlt_ops::Entry;

namespace {

constexpr int64_t kRows = 2000, kDim = 40, kNeighbors = 12;

struct Rows {
  std::vector<int64_t> rowptr{0};
  std::vector<int32_t> col;
  std::vector<float> value;

  mlt_ops::Csr csr() const { return {rowptr.data(), col.data(), value.data()}; }
  bool operator==(const Rows& other) const {
    return rowptr == other.rowptr && col == other.col && value == other.value;
  }
};

template <class MakeWorker>
Rows build(int num_threads, const MakeWorker& make_worker) {
  std::vector<int64_t> count(kRows);
  const auto run = [&](const auto& work) {
    std::vector<std::thread> threads;
    for (int t = 0; t < num_threads; ++t) threads.emplace_back(work);
    for (std::thread& thread : threads) thread.join();
  };
  Rows rows;
  const auto blocks = mlt_ops::build_rows(0, kRows, count.data(), run, make_worker);
  for (int64_t n : count) rows.rowptr.push_back(rows.rowptr.back() + n);
  for (const auto& block : blocks) {
    for (const Entry& entry : block) {
      rows.col.push_back(entry.col);
      rows.value.push_back(entry.value);
    }
  }
  return rows;
}

template <class MakeWorker>
Rows build_twice(const char* what, const MakeWorker& make_worker) {
  const Rows one = build(1, make_worker), four = build(4, make_worker);
  if (one == four && !one.col.empty()) return one;
  std::fprintf(stderr, "%s: four threads differ from one, or there are no entries\n", what);
  std::exit(1);
}

// Columns of a matrix, the rows of each ascending.
Rows transpose(const Rows& rows) {
  std::vector<std::vector<Entry>> columns(kRows);
  for (int32_t i = 0; i < kRows; ++i) {
    for (int64_t p = rows.rowptr[i]; p < rows.rowptr[i + 1]; ++p) columns[rows.col[p]].push_back({i, rows.value[p]});
  }
  Rows result;
  for (const auto& column : columns) {
    for (const Entry& entry : column) {
      result.col.push_back(entry.col);
      result.value.push_back(entry.value);
    }
    result.rowptr.push_back(static_cast<int64_t>(result.col.size()));
  }
  return result;
}

// The nearest of a tile's rows or columns, each thread with its own share of them, against a full sort.
void check_nearest() {
  constexpr int64_t kSide = 300, kWidth = 7;
  std::vector<float> products(kSide * kSide), row_floors(kSide), col_floors(kSide);
  for (int64_t i = 0; i < kSide * kSide; ++i) products[i] = static_cast<float>((i * 7919) % 100'003);
  for (int64_t i = 0; i < kSide; ++i) row_floors[i] = static_cast<float>(7 * i), col_floors[i] = static_cast<float>(-i);
  const mlt_ops::Tile tile{products.data(), row_floors.data(), col_floors.data(), kSide, kSide, -2.f};
  for (const bool by_column : {false, true}) {
    std::vector<float> kept(kSide * kWidth, 1e9f);
    std::vector<int32_t> origin(kSide * kWidth, -1);
    std::vector<std::thread> threads;
    for (int64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int64_t first = t * mlt_ops::kStrip; first < kSide; first += 4 * mlt_ops::kStrip) {
          mlt_ops::NearestHeap heaps[mlt_ops::kStrip];
          const int64_t count = std::min(mlt_ops::kStrip, kSide - first);
          for (int64_t i = 0; i < count; ++i) {
            heaps[i] = {kept.data() + (first + i) * kWidth, origin.data() + (first + i) * kWidth, kWidth};
            if (!by_column) mlt_ops::merge_row(tile, first + i, 0, heaps[i]);
          }
          if (by_column) mlt_ops::merge_columns(tile, first, count, 0, heaps);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (int64_t i = 0; i < kSide; ++i) {
      std::vector<float> all(kSide), mine(kept.begin() + i * kWidth, kept.begin() + (i + 1) * kWidth);
      for (int64_t j = 0; j < kSide; ++j) all[j] = by_column ? tile.bound(j, i) : tile.bound(i, j);
      std::sort(all.begin(), all.end());
      std::sort(mine.begin(), mine.end());
      if (std::equal(mine.begin(), mine.end(), all.begin())) continue;
      std::fprintf(stderr, "merge_nearest: the nearest of %s %ld are others\n", by_column ? "column" : "row",
                   static_cast<long>(i));
      std::exit(1);
    }
  }
}

}  // namespace

int main() {
  check_nearest();
  // Rows on a circle: a row's neighbours are the next ones on both sides.
  std::vector<float> features(kRows * kDim, 0.f), distance(kRows * kNeighbors), scale(kRows, 1.f);
  std::vector<int32_t> order(kRows), index(kRows * kNeighbors), full(kRows * kNeighbors), half(kRows * 7);
  for (int64_t i = 0; i < kRows; ++i) {
    features[i * kDim] = 0.1f * static_cast<float>(i);
    order[i] = static_cast<int32_t>(kRows - 1 - i);
    for (int64_t p = 0; p < kNeighbors; ++p) {
      const int64_t step = p % 2 == 0 ? p / 2 : -(p + 1) / 2;
      index[i * kNeighbors + p] = static_cast<int32_t>((i + step + kRows) % kRows);
      distance[i * kNeighbors + p] = 0.01f * static_cast<float>(step * step);
    }
  }
  for (int64_t i = 0; i < kRows; ++i) {
    mlt_ops::mutual_row(index.data(), kNeighbors, kNeighbors, i, full.data() + i * kNeighbors);
    mlt_ops::mutual_row(index.data(), kNeighbors, 7, i, half.data() + i * 7);
  }
  const mlt_ops::ReciprocalInput input{features.data(), order.data(), distance.data(),
                                       index.data(),    full.data(),  half.data(),
                                       scale.data(),    kRows,        kDim,
                                       kNeighbors,      kNeighbors,   7};
  const Rows sets = build_twice("k_reciprocal", [&] { return mlt_ops::ReciprocalWorker(input); });
  const mlt_ops::Csr csr = sets.csr();
  const Rows expanded =
      build_twice("expand_query", [&] { return mlt_ops::ExpandWorker(csr, index.data(), kNeighbors, 4, kRows); });
  const Rows by_column = transpose(expanded);
  const mlt_ops::Csr rows = expanded.csr(), columns = by_column.csr();
  const Rows lower = build_twice("jaccard", [&] { return mlt_ops::JaccardWorker(rows, columns, kRows, kRows, 0.6f); });
  const Rows lower_by_column = transpose(lower);
  const mlt_ops::Csr triangle = lower.csr(), its_columns = lower_by_column.csr();
  build_twice("mirror", [&] { return mlt_ops::MirrorWorker(triangle, its_columns, order.data(), order.data()); });
  std::puts("rows_driver: one thread and four build the same rows");
}
