// All operator schemas on one screen, and the empty Python module that loads them.
// Kernels: cpu/*.cpp and cuda/*.cu. Contracts, fake kernels and documentation: ../*.py.
#include <Python.h>
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mlt_ops, m) {
  // features [N, D], order [M] rows sorted by segment, rowptr [K + 1] -> [K, D]
  m.def("segment_mean(Tensor features, Tensor order, Tensor rowptr) -> Tensor");
  // Keeps in distance, index [N, C] the C smallest bounds of each row (or column) of the tiles seen so far, unsorted;
  // a bound is row_floors + col_floors + alpha products.
  m.def(
      "merge_nearest(Tensor products, Tensor row_floors, Tensor col_floors, float alpha, int first, bool by_column, "
      "Tensor(a!) distance, Tensor(b!) index) -> ()");
  // Squared distances [P] of the pairs (queries[query], rows[row]), indices int32
  m.def("pair_distance(Tensor queries, Tensor rows, Tensor query, Tensor row) -> Tensor");
  // index [N, k] int32 -> rows begin..end of [N, width] int32: neighbours mutual within `width`, -1 in place of others
  m.def("mutual_neighbors(Tensor index, int width, int begin, int end) -> Tensor");
  // Rows begin..end of a sparse matrix: number of entries per row, columns (int32), values.
  m.def(
      "k_reciprocal(Tensor features, Tensor order, Tensor distance, Tensor index, Tensor full, Tensor half, "
      "Tensor scale, int begin, int end) -> (Tensor, Tensor, Tensor)");
  m.def(
      "expand_query(Tensor rowptr, Tensor col, Tensor value, Tensor index, int num_cols, int k2, "
      "int begin, int end) -> (Tensor, Tensor, Tensor)");
  // Distances to the rows up to the diagonal; colptr, row, row_value: the same matrix by columns.
  m.def(
      "jaccard(Tensor rowptr, Tensor col, Tensor value, Tensor colptr, Tensor row, Tensor row_value, "
      "float max_distance, int begin, int end) -> (Tensor, Tensor, Tensor)");
  // Puts rows begin..end of a CSR matrix into its columns; next [num_cols]: the first free place of each column.
  m.def(
      "scatter_columns(Tensor rowptr, Tensor col, Tensor value, int begin, int end, Tensor(a!) next, Tensor(b!) row, "
      "Tensor(c!) row_value) -> ()");
  // The symmetric matrix with a lower triangle, here by rows and by columns; row i is what was row place[i], order is
  // the inverse of place.
  m.def(
      "mirror(Tensor rowptr, Tensor col, Tensor value, Tensor colptr, Tensor row, Tensor row_value, Tensor order, "
      "Tensor place, int begin, int end) -> (Tensor, Tensor, Tensor)");
  // CSR of distances -> [N] int32: smallest core index of the row's cluster, -1 for noise
  m.def("dbscan(Tensor rowptr, Tensor col, Tensor value, float eps, int min_samples) -> Tensor");
  // Per reference column (CSR, [M]): how many columns of its row come before it, those excluded (CSR) left out.
  m.def(
      "count_closer(Tensor distance, Tensor rowptr, Tensor col, Tensor excluded_rowptr, Tensor excluded_col) "
      "-> Tensor");
}

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  static struct PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  PyObject* module = PyModule_Create(&module_def);
#ifdef USE_CUDA
  PyModule_AddIntConstant(module, "with_cuda", 1);
  PyModule_AddStringConstant(module, "cuda_archs", MLT_OPS_CUDA_ARCHS);
#else
  PyModule_AddIntConstant(module, "with_cuda", 0);
  PyModule_AddStringConstant(module, "cuda_archs", "");
#endif
  return module;
}
