// All operator schemas on one screen, and the empty Python module that loads them.
// Kernels: cpu/*.cpp and cuda/*.cu. Contracts, fake kernels and documentation: ../*.py.
#include <Python.h>
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mlt_ops, m) {
  // features [N, D], order [M] rows sorted by segment, rowptr [K + 1] -> [K, D]
  m.def("segment_mean(Tensor features, Tensor order, Tensor rowptr) -> Tensor");
}

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  static struct PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  PyObject* module = PyModule_Create(&module_def);
#ifdef USE_CUDA
  PyModule_AddIntConstant(module, "with_cuda", 1);
#else
  PyModule_AddIntConstant(module, "with_cuda", 0);
#endif
  return module;
}
