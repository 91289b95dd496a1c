// When a target is lost, and where it is sought then.
#pragma once

#include <numeric>
#include <optional>

#include "geometry.hpp"

namespace fartrack {

constexpr double JUMP = 0.1;  // IoU of two boxes of one target under which it has jumped

enum class Status { tracking, uncertain, lost };

// The state that a track tells: whether its target is sought, its score, and the state told on the last frame.
inline Status told(bool sought, double score, Status before) {
    if (sought || score < (before == Status::lost ? 0.5 : 0.3)) return Status::lost;
    return score < 0.5 ? Status::uncertain : Status::tracking;
}

/** The place where a target was lost that was found elsewhere since: it may show up there again. */
struct Watch {
    Box place;
    int since;  // the frame from which on the target was followed elsewhere

    bool over(int frame) const { return frame - since > 100; }
    bool due(int frame) const { return !over(frame) && frame > since && (frame - since) % 3 == 0; }
};

struct Recovery {
    Box sure;
    Status status = Status::tracking;
    int doubtful = 0, turn = 0;
    bool found = false;
    Pair rate{};  // the usual absolute change of the logarithm of width and height a frame
    std::optional<Watch> watch{};

    /** Once the target is followed for sure in a box. */
    Recovery at(const Box& box, const Pair& usual, int frame) const {
        Recovery after{box, Status::tracking, 0, 0, false, usual};
        if (watch && !watch->over(frame)) after.watch = watch;
        if (!after.watch && found && iou(sure, box) < JUMP) after.watch = Watch{sure, frame};
        return after;
    }

    bool seeking() const { return status == Status::lost && !found; }

    bool plausible(const Box& box) const {
        auto alike = [&](int i) { return std::abs(std::log(box[i] / sure[i])) < std::log(2.5); };
        return alike(2) && alike(3);
    }
};

constexpr double WIDEST = 2.5;
constexpr int GROWING = 4;  // frames until windows that grow by 1.3 a frame are WIDEST

inline std::vector<Crop> cover(const Image& frame, double side) {
    const Pair lengths{double(frame.width), double(frame.height)};
    std::array<int, 2> counts{};
    double window = side;
    for (double scale : {1.0, 1.4, 1.9, WIDEST}) {
        window = side * scale;
        for (int i : {0, 1}) counts[i] = std::max(int(std::ceil((lengths[i] / window - 1) / 0.75)), 0) + 1;
        if (counts[0] * counts[1] <= 6) break;
    }
    auto center = [&](int axis, int i) {
        if (counts[axis] == 1) return lengths[axis] / 2;
        return window / 2 + i * ((lengths[axis] - window) / (counts[axis] - 1));
    };
    std::vector<Crop> tiles;
    for (int row = 0; row < counts[1]; row++)
        for (int column = 0; column < counts[0]; column++)
            tiles.push_back({center(0, column) - window / 2, center(1, row) - window / 2, window});
    return tiles;
}

inline std::vector<Crop> seek(const Box& sure, const Image& frame, double factor, int turn) {
    const Crop base = Crop::around(sure, factor);
    if (turn < GROWING) return {base.center(std::pow(1.3, turn))};
    const auto tiles = cover(frame, base.side);
    const size_t place = size_t(turn - GROWING);
    const double shares[] = {1.0, WIDEST, std::sqrt(WIDEST)};
    return {base.center(shares[place % 3]), tiles[place % tiles.size()]};
}

/** Whether a crop of a window shows nothing but one color, where it shows the frame and no padding. */
inline bool is_plain(const Pixels& crop, int side, const Crop& window, const Image& frame) {
    const double scale = window.side / side, margin = 1.5 * std::max(scale, 1.0);
    auto first = [&](double start) { return std::max(int(std::ceil((margin - start) / scale - 0.5)), 0); };
    auto end = [&](double start, int length) {
        return std::min(int(std::ceil((length - margin - start) / scale - 0.5)), side);
    };
    const int left = first(window.x), top = first(window.y);
    const int right = end(window.x, frame.width), bottom = end(window.y, frame.height);
    if (right <= left || bottom <= top) return false;
    double most = 0;
    for (int c = 0; c < 3; c++) {
        double count = 0, sum = 0, squares = 0;
        for (int y = top; y < bottom; y += 4)
            for (int x = left; x < right; x += 4) {
                const double value = crop[(size_t(y) * side + x) * 3 + c];
                count++, sum += value, squares += value * value;
            }
        most = std::max(most, squares / count - (sum / count) * (sum / count));
    }
    return most < 4.0 * 4.0;
}

using Thumbnail = std::array<double, 16 * 12>;

inline Thumbnail thumbnail(const Image& frame) {
    const int step_x = std::max(frame.width / 128, 1), step_y = std::max(frame.height / 96, 1);
    const int width = (frame.width + step_x - 1) / step_x, height = (frame.height + step_y - 1) / step_y;
    auto share = [](int i, double low, double high) { return std::min(i + 1.0, high) - std::max(double(i), low); };
    Thumbnail small;
    for (size_t at = 0; at < small.size(); at++) {
        const double x0 = at % 16 * width / 16.0, x1 = (at % 16 + 1) * width / 16.0;
        const double y0 = at / 16 * height / 12.0, y1 = (at / 16 + 1) * height / 12.0;
        double sum = 0;
        for (int y = int(y0); y < std::min(int(std::ceil(y1)), height); y++)
            for (int x = int(x0); x < std::min(int(std::ceil(x1)), width); x++)
                sum += share(y, y0, y1) * share(x, x0, x1) *
                       frame.rgb[(size_t(y) * step_y * frame.width + size_t(x) * step_x) * 3 + 1];
        small[at] = std::nearbyint(sum / (width / 16.0 * (height / 12.0)));
    }
    const double mean = std::accumulate(small.begin(), small.end(), 0.0) / small.size();
    for (double& value : small) value -= mean;
    return small;
}

inline bool is_cut(const Thumbnail& before, const Thumbnail& after) {
    auto mean = [](const Thumbnail& a, const Thumbnail& b) {
        return std::inner_product(a.begin(), a.end(), b.begin(), 0.0) / a.size();
    };
    const double first = std::sqrt(mean(before, before)), second = std::sqrt(mean(after, after));
    return std::min(first, second) >= 8 && mean(before, after) < 0.65 * (first * second);
}

}  // namespace fartrack
