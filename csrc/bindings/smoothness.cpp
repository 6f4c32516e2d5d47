// Smoothness, its closed forms from data, budgets, and what theory says with them. Tensors in and out are float64.
#include "bindings/module.h"
#include "common/error.h"
#include "compressors/budget.h"
#include "mechanisms/registry.h"
#include "mechanisms/theory.h"
#include "smoothness/data.h"

namespace py = pybind11;

namespace tsq {

namespace {

std::span<const double> doubles_of(const at::Tensor& tensor, const char* name) {
  const View view = view_of(tensor, name);
  if (view.dtype != DType::kFloat64) throw ArgumentError(concat(name, ": expected float64"));
  return {view.as<double>(), view.numel};
}

std::span<const int64_t> integers_of(const at::Tensor& tensor, const char* name) {
  if (tensor.scalar_type() != at::kLong || !tensor.is_contiguous() || !tensor.device().is_cpu())
    throw ArgumentError(concat(name, ": expected a contiguous int64 tensor on the cpu"));
  return {tensor.const_data_ptr<int64_t>(), static_cast<size_t>(tensor.numel())};
}

at::Tensor tensor_of(const std::vector<double>& values) {
  at::Tensor out = new_tensor(values.size(), at::kDouble);
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<double>());
  return out;
}

BlockDiagonal::Block block_of(const at::Tensor& tensor) {
  const auto values = doubles_of(tensor, "block");
  if (tensor.dim() != 2 || tensor.size(0) != tensor.size(1))
    throw ArgumentError(concat("smoothness: expected a square matrix, got one of shape ", tensor.sizes()));
  return {static_cast<size_t>(tensor.size(0)), {values.begin(), values.end()}};
}

std::shared_ptr<Smoothness> make_blocks(Smoothness::Kind kind, const std::vector<at::Tensor>& tensors, double rounding,
                                        double mu) {
  std::vector<BlockDiagonal::Block> blocks;
  for (const at::Tensor& t : tensors) blocks.push_back(block_of(t));
  py::gil_scoped_release no_gil;
  return std::make_shared<BlockDiagonal>(kind, std::move(blocks), rounding, mu);
}

/// L^(+-1/2) x in x's dtype.
at::Tensor applied(const Smoothness& L, const at::Tensor& x, bool inverse) {
  const auto values = doubles_of(x, "x");
  L.check_numel(values.size());
  std::vector<double> out(values.size());
  inverse ? L.inverse_root(values.data(), out.data(), out.size()) : L.root(values.data(), out.data(), out.size());
  return tensor_of(out);
}

/// The rows of a sparse matrix, with the tensors that own them.
struct Data {
  at::Tensor starts, places, values;
  Rows rows;
  Curvature curvature;

  Data(at::Tensor s, at::Tensor p, at::Tensor v, int64_t columns, double c, double l2)
      : starts(std::move(s)), places(std::move(p)), values(std::move(v)), curvature{c, l2} {
    if (columns < 0) throw ArgumentError(concat("A: columns: expected 0 or more, got ", columns));
    rows = {static_cast<size_t>(columns), integers_of(starts, "starts"), integers_of(places, "places"),
            doubles_of(values, "values")};
    check_rows(rows, curvature);
  }
};

Majoriser rule_of(const std::string& name) {
  constexpr const char* kNames[] = {"gershgorin", "row_sums", "row_counts", "dimension", "lambda_max"};
  for (size_t i = 0; i < std::size(kNames); ++i)
    if (name == kNames[i]) return static_cast<Majoriser>(i);
  throw ArgumentError("rule: expected 'gershgorin', 'row_sums', 'row_counts', 'dimension' or 'lambda_max', got '" +
                      name + "'");
}

BlockRule block_rule_of(const std::string& name) {
  if (name == "optimal") return BlockRule::kTight;
  if (name == "paper") return BlockRule::kPaper;
  if (name == "uniform") return BlockRule::kUniform;
  throw ArgumentError("rule: expected 'optimal', 'paper' or 'uniform', got '" + name + "'");
}

void bind_budgets(py::module_& m) {
  m.def("varying_steps", [](const at::Tensor& diagonal, double beta, double n_mu) {
    return tensor_of(varying_steps(weights_of(doubles_of(diagonal, "diagonal"), n_mu, /*euclidean=*/true), beta));
  });
  m.def("block_steps",
        [](const at::Tensor& diagonal, size_t blocks, double beta, double n_mu, const std::string& rule) {
          const auto values = doubles_of(diagonal, "diagonal");
          const auto bounds = block_bounds(values.size(), blocks);
          return tensor_of(block_steps(values, bounds, beta, n_mu, block_rule_of(rule)));
        });
  m.def("bernoulli_probabilities", [](const at::Tensor& diagonal, double tau, double n_mu) {
    return tensor_of(bernoulli_probabilities(doubles_of(diagonal, "diagonal"), tau, n_mu));
  });
}

void bind_data(py::module_& m) {
  py::class_<Data>(m, "Rows")
      .def(py::init<at::Tensor, at::Tensor, at::Tensor, int64_t, double, double>())
      .def("hessian", [](const Data& d) { return tensor_of(hessian_bound(d.rows, d.curvature)); })
      .def("diagonal", [](const Data& d) { return tensor_of(hessian_diagonal(d.rows, d.curvature)); })
      .def("majoriser",
           [](const Data& d, const std::string& rule) {
             return tensor_of(majoriser(rule_of(rule), d.rows, d.curvature));
           })
      .def("lambda_max", [](const Data& d, int iterations) {
        const Bounds bounds = bound_lambda_max(d.rows, d.curvature, iterations);
        return std::pair(bounds.low, bounds.high);
      });
}

}  // namespace

void bind_smoothness(py::module_& m) {
  py::class_<Smoothness, std::shared_ptr<Smoothness>>(m, "Smoothness")
      .def_property_readonly("kind", &Smoothness::kind_name)
      .def_property_readonly("numel", &Smoothness::numel)
      .def_property_readonly("mu", &Smoothness::mu)
      .def_property_readonly("lambda_max", &Smoothness::lambda_max)
      .def_property_readonly("numbers", &Smoothness::numbers)
      .def("diagonal", [](const Smoothness& L, size_t n) { return tensor_of(L.diagonal(n)); })
      .def("dense", [](const Smoothness& L, size_t n) { return tensor_of(L.dense(n)); })
      .def("root", [](const Smoothness& L, const at::Tensor& x) { return applied(L, x, false); })
      .def("inverse_root", [](const Smoothness& L, const at::Tensor& x) { return applied(L, x, true); });
  m.def("scalar_smoothness",
        [](double value, double mu) -> std::shared_ptr<Smoothness> { return std::make_shared<Scalar>(value, mu); });
  m.def("diagonal_smoothness", [](const at::Tensor& values, double mu) -> std::shared_ptr<Smoothness> {
    const auto v = doubles_of(values, "diagonal");
    return std::make_shared<Diagonal>(std::vector<double>(v.begin(), v.end()), mu);
  });
  m.def("block_smoothness", [](const std::vector<at::Tensor>& blocks, double rounding, double mu) {
    return make_blocks(Smoothness::Kind::kBlockDiagonal, blocks, rounding, mu);
  });
  m.def("matrix_smoothness", [](const at::Tensor& matrix, double rounding, double mu) {
    return make_blocks(Smoothness::Kind::kMatrix, {matrix}, rounding, mu);
  });
  m.def("noise_of", [](const std::string& spec, const std::vector<std::shared_ptr<Smoothness>>& all, size_t numel,
                       uint32_t world_size, bool plus) {
    const SmoothnessSet given{{all.begin(), all.end()}, numel, world_size};
    std::vector<std::pair<double, double>> out;
    for (const Noise& noise : noise_of(*parse_mechanism(spec), given, plus))
      out.emplace_back(noise.omega, noise.script_L);
    return out;
  });
  m.def("convex_step", [](const std::string& spec, const std::vector<std::shared_ptr<Smoothness>>& all, size_t numel,
                          uint32_t world_size, bool plus) {
    return convex_step(*parse_mechanism(spec), {{all.begin(), all.end()}, numel, world_size}, plus);
  });
  bind_data(m);
  bind_budgets(m);
}

}  // namespace tsq
