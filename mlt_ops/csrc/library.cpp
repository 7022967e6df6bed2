// All operator schemas on one screen, and the empty Python module that loads them.
// Kernels: cpu/*.cpp and cuda/*.cu. Contracts, fake kernels and documentation: ../*.py.
#include <Python.h>
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mlt_ops, m) {
  // features [N, D], order [M] rows sorted by segment, rowptr [K + 1] -> [K, D]
  m.def("segment_mean(Tensor features, Tensor order, Tensor rowptr) -> Tensor");
  // Keeps in distance, index [N, C] the C smallest entries of each row (or column) of the tiles seen so far, unsorted.
  m.def("merge_nearest(Tensor tile, int first, bool by_column, Tensor(a!) distance, Tensor(b!) index) -> ()");
  // Squared distances [P] of the pairs (queries[query], rows[row]), indices int32
  m.def("pair_distance(Tensor queries, Tensor rows, Tensor query, Tensor row) -> Tensor");
  // index [N, k], which [M] rows -> [M, width], all int32: neighbours mutual within `width`, -1 in place of others
  m.def("mutual_neighbors(Tensor index, int width, Tensor which) -> Tensor");
  // Rows which[0], which[1], ... (int32) of a sparse matrix: number of entries per row, columns (int32), values.
  m.def("k_reciprocal(Tensor features, Tensor distance, Tensor index, Tensor full, Tensor half, Tensor scale, "
        "Tensor which) -> (Tensor, Tensor, Tensor)");
  m.def("expand_query(Tensor rowptr, Tensor col, Tensor value, Tensor index, int num_cols, int k2, "
        "Tensor which) -> (Tensor, Tensor, Tensor)");
  // Distances to the rows up to the diagonal; colptr, row, row_value: the same matrix by columns.
  m.def("jaccard(Tensor rowptr, Tensor col, Tensor value, Tensor colptr, Tensor row, Tensor row_value, "
        "float max_distance, Tensor which) -> (Tensor, Tensor, Tensor)");
  // Copies built rows, count [m] entries each, to where `first` [m] says that they begin among all entries.
  m.def("place_rows(Tensor first, Tensor count, Tensor col, Tensor value, Tensor(a!) all_cols, Tensor(b!) all_values) "
        "-> ()");
  // Puts rows begin..end of a CSR matrix into its columns; next [num_cols]: the first free place of each column.
  m.def("scatter_columns(Tensor rowptr, Tensor col, Tensor value, int begin, int end, Tensor(a!) next, Tensor(b!) row, "
        "Tensor(c!) row_value) -> ()");
  // CSR of distances -> [N] int32: smallest core index of the row's cluster, -1 for noise
  m.def("dbscan(Tensor rowptr, Tensor col, Tensor value, float eps, int min_samples) -> Tensor");
  // Per reference column (CSR, [M]): how many columns of its row come before it, those excluded (CSR) left out.
  m.def("count_closer(Tensor distance, Tensor rowptr, Tensor col, Tensor excluded_rowptr, Tensor excluded_col) "
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
