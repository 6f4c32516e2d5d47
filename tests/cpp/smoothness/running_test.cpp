// Running estimates: averages by run, secants of a quadratic, what is not finite, state.
#include "smoothness/running.h"

#include <gtest/gtest.h>

#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

RunningSmoothness of(RunningKind kind, double decay, size_t numel, DType dtype = DType::kFloat32, size_t run = 4) {
  return {kind, decay, {{numel, dtype, run}}};
}

TEST(Running, SecondMomentIsTheAverageOfMeanSquaresByRun) {
  for (const DType dtype : test::kAllDTypes) {
    RunningSmoothness r = of(RunningKind::kSecondMoment, 0.75, 6, dtype);
    EXPECT_TRUE(r.moment(0).empty());
    Vector g(dtype, 6);
    for (size_t i = 0; i < 6; ++i) g.set(i, i < 4 ? 2 : 3);
    EXPECT_TRUE(r.observe(0, g.view(), {}));
    EXPECT_EQ((std::vector<double>(r.moment(0).begin(), r.moment(0).end())), (std::vector<double>{4, 9}));
    for (size_t i = 0; i < 6; ++i) g.set(i, 0);
    g.set(5, 2);
    EXPECT_TRUE(r.observe(0, g.view(), {}));
    EXPECT_EQ((std::vector<double>(r.moment(0).begin(), r.moment(0).end())), (std::vector<double>{3, 7.25}));
    EXPECT_EQ(r.curvature(0), (std::vector<double>{3, 7.25}));
    r.scale(2);
    EXPECT_EQ(r.moment(0)[1], 29.0);
  }
}

TEST(Running, WhatIsNotFiniteChangesNothing) {
  for (const RunningKind kind : {RunningKind::kSecondMoment, RunningKind::kSecant})
    for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
      RunningSmoothness r = of(kind, 0.5, 6);
      const Vector x = test::random_vector(DType::kFloat32, 6, 1);
      Vector g = test::random_vector(DType::kFloat32, 6, 2);
      EXPECT_TRUE(r.observe(0, g.view(), x.view()));
      const std::vector<double> before = r.state(0);
      g.set(5, bad);
      EXPECT_FALSE(r.observe(0, g.view(), x.view()));
      EXPECT_EQ(r.state(0), before);
    }
}

TEST(Running, SecantsOfAQuadraticAreItsCurvature) {
  // f = 1/2 sum L_j x_j^2, gradient L_j x_j: <dx, dg> / |dx|^2 = L where L is the same in a run.
  RunningSmoothness r = of(RunningKind::kSecant, 0.9, 6, DType::kFloat64);
  for (uint64_t step = 0; step < 5; ++step) {
    const Vector x = test::random_vector(DType::kFloat64, 6, step);
    Vector g(DType::kFloat64, 6);
    for (size_t i = 0; i < 6; ++i) g.set(i, x[i] * (i < 4 ? 3.0 : -0.5));
    r.observe(0, g.view(), x.view());
    if (step == 0) {
      EXPECT_TRUE(r.curvature(0).empty());
    }
  }
  ASSERT_EQ(r.curvature(0).size(), 2u);
  EXPECT_NEAR(r.curvature(0)[0], 3.0, 1e-12);
  EXPECT_NEAR(r.curvature(0)[1], 0.5, 1e-12);  // negative curvature counts by its size
  r.scale(4);                                  // the loss is 4 times what it was
  EXPECT_NEAR(r.curvature(0)[0], 12.0, 1e-12);
}

TEST(Running, NoChangeOfPositionIsNoCurvature) {
  RunningSmoothness r = of(RunningKind::kSecant, 0.9, 4);
  const Vector x = test::random_vector(DType::kFloat32, 4, 1);
  for (uint64_t step = 0; step < 3; ++step)
    r.observe(0, test::random_vector(DType::kFloat32, 4, step).view(), x.view());
  EXPECT_EQ(r.curvature(0), std::vector<double>{0.0});
}

TEST(Running, GivenCurvatureIsAveragedByItsSize) {
  RunningSmoothness r = of(RunningKind::kGiven, 0.5, 6);
  Vector d(DType::kFloat64, 6), one(DType::kFloat64, 1);
  for (size_t i = 0; i < 6; ++i) d.set(i, i < 4 ? -2 : 8);
  r.give(0, d.view());
  EXPECT_EQ(r.curvature(0), (std::vector<double>{2, 8}));
  one.set(0, 4);
  r.give(0, one.view());
  EXPECT_EQ(r.curvature(0), (std::vector<double>{3, 6}));
  EXPECT_TRUE(test::contains(test::error_of<ArgumentError>([&] { r.give(0, Vector(DType::kFloat64, 5).view()); }),
                             "expected 6 elements or 1, got 5"));
  one.set(0, NAN);
  EXPECT_NE(test::error_of<ArgumentError>([&] { r.give(0, one.view()); }), "");
  EXPECT_EQ(r.curvature(0), (std::vector<double>{3, 6}));
  RunningSmoothness other = of(RunningKind::kSecant, 0.5, 6);
  EXPECT_NE(test::error_of<ArgumentError>([&] { other.give(0, d.view()); }), "");
}

TEST(Running, StateGoesOnBitForBit) {
  for (const RunningKind kind : {RunningKind::kSecondMoment, RunningKind::kSecant}) {
    RunningSmoothness a = of(kind, 0.9, 10), b = of(kind, 0.9, 10);
    const auto feed = [](RunningSmoothness& r, uint64_t step) {
      r.observe(0, test::random_vector(DType::kFloat32, 10, step).view(),
                test::random_vector(DType::kFloat32, 10, step + 100).view());
    };
    for (uint64_t step = 0; step < 4; ++step) feed(a, step);
    b.load(0, a.state(0));
    for (uint64_t step = 4; step < 8; ++step) feed(a, step), feed(b, step);
    EXPECT_EQ(a.state(0), b.state(0));
    std::vector<double> bad = a.state(0);
    bad.pop_back();
    EXPECT_NE(test::error_of<ArgumentError>([&] { b.load(0, bad); }), "");
    bad = a.state(0), bad.push_back(0);
    EXPECT_NE(test::error_of<ArgumentError>([&] { b.load(0, bad); }), "");
    bad = a.state(0), bad[0] = 7;
    EXPECT_NE(test::error_of<ArgumentError>([&] { b.load(0, bad); }), "");
    bad = a.state(0), bad[1] = NAN;
    EXPECT_NE(test::error_of<ArgumentError>([&] { b.load(0, bad); }), "");
    EXPECT_EQ(a.state(0), b.state(0));
  }
}

}  // namespace
}  // namespace tsq
