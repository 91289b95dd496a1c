// A memory of distractors: what was seen beside the target is not the target, however much it looks like it.
#pragma once

#include "geometry.hpp"

namespace fartrack {

class Scene {  // every step-th pixel of a frame, and the target's box on it
  public:
    Scene(const Image& frame, const Box& box, int step = 0)
        : step_(step ? step : std::max(int(size(box) * CONTEXT / PATCH), 1)), box_(box) {
        width_ = (frame.width + step_ - 1) / step_, height_ = (frame.height + step_ - 1) / step_;
        for (int y = 0; y < frame.height; y += step_)
            for (int x = 0; x < frame.width; x += step_) {
                const uint8_t* pixel = frame.rgb + (size_t(y) * frame.width + x) * 3;
                pixels_.insert(pixels_.end(), pixel, pixel + 3);
            }
    }

    /** Whether what a later box on a frame holds was already here, at that place or near it, and beside the target. */
    bool shows(const Image& frame, const Box& box) const {
        const Pair place = center(box), target = center(box_);
        const double side = size(box) * CONTEXT;
        const Pixels patch = Scene(frame, box, step_).cut(place, side, PATCH);
        const double beside = best(patch, side, place, target, true);
        return beside >= 0.6 && beside > best(patch, side, target, target, false) + 0.15;
    }

  private:
    static constexpr int PATCH = 20, AREA = 63;  // sides, in pixels, of what is compared and of what is looked through
    static constexpr double CONTEXT = 1.4, BESIDE = 0.9;

    int width_ = 0, height_ = 0, step_ = 1;
    Box box_{};
    Pixels pixels_;

    static double size(const Box& box) { return std::sqrt(box[2] * box[3]); }
    static Pair center(const Box& box) { return {box[0] + box[2] / 2, box[1] + box[3] / 2}; }

    /** The best correlation of a patch with what is around a place, beside the target or where it is. */
    double best(const Pixels& patch, double side, const Pair& place, const Pair& target, bool beside) const {
        const Pixels area = cut(place, side * AREA / PATCH, AREA);
        auto far = [&](int axis, int i) {
            return std::abs(place[axis] + (i - (AREA - PATCH) / 2.0) * side / PATCH - target[axis]) * CONTEXT / side;
        };
        double most = 0;
        for (int row = 0; row <= AREA - PATCH; row++)
            for (int column = 0; column <= AREA - PATCH; column++) {
                const double distance = std::max(far(0, column), far(1, row));
                if (beside ? distance > BESIDE : distance < BESIDE)
                    most = std::max(most, correlation(area, row, column, patch));
            }
        return most;
    }

    static double correlation(const Pixels& area, int row, int column, const Pixels& patch) {
        double a = 0, b = 0, aa = 0, bb = 0, ab = 0;
        for (int y = 0; y < PATCH; y++)
            for (int x = 0; x < PATCH; x++) {
                const double first = area[(row + y) * AREA + column + x], second = patch[y * PATCH + x];
                a += first, b += second, aa += first * first, bb += second * second, ab += first * second;
            }
        constexpr double count = PATCH * PATCH;
        const double spread = (aa - a * a / count) * (bb - b * b / count);
        return spread > 0 ? (ab - a * b / count) / std::sqrt(spread) : 0;
    }

    /** Green of the square of this side around a place of the frame, size × size. */
    Pixels cut(const Pair& place, double side, int size) const {
        const Crop window{(place[0] - side / 2) / step_, (place[1] - side / 2) / step_, side / step_};
        const Pixels rgb = window.extract({width_, height_, pixels_.data()}, size);
        Pixels green;
        for (size_t i = 1; i < rgb.size(); i += 3) green.push_back(rgb[i]);
        return green;
    }
};

}  // namespace fartrack
