// The tracking loop and its state: the template memory, recovery, and what each frame changes. docs/loop.md explains it.
#pragma once

#include <set>

#include "model.hpp"

namespace fartrack {

// ------------------------------------------------------------------------------------------------ the template memory

struct Template {
    int frame;
    KVCache cache;
    std::vector<double> target, context;  // what it looks like in the box and around it, of length 1

    Template(int frame, KVCache kv_cache, const Box& corners) : frame(frame), cache(std::move(kv_cache)) {
        const auto [layers, heads, tokens, channels] = cache.shape;
        const float* values = cache.data.data() + std::min<int64_t>(5, layers - 1) * heads * tokens * channels;
        const int side = int(std::lround(std::sqrt(double(tokens))));
        auto covered = [&](int axis, int64_t at) {  // how much of a row or column of tokens the box covers
            double low = float(corners[axis]), high = float(corners[axis + 2]);
            return std::max(std::min(high, (at + 1.0) / side) - std::max(low, double(at) / side), 0.0) * side;
        };
        target.assign(heads * channels, 0), context = target;
        for (int64_t token = 0; token < tokens; token++) {
            const double share = covered(1, token / side) * covered(0, token % side);
            for (int64_t i = 0; i < heads * channels; i++) {
                const float value = values[(i / channels * tokens + token) * channels + i % channels];
                target[i] += share * value, context[i] += (1 - share) * value;
            }
        }
        for (auto* vector : {&target, &context}) {
            const double length = std::max(std::sqrt(dot(*vector, *vector)), 1e-9);
            for (double& value : *vector) value /= length;
        }
    }

    /** How much another template's target looks like this one's: 1 the same, 0 rather like the context. */
    double likeness(const Template& other) const {
        const double contrast = dot(target, other.target) - dot(context, other.target);
        return contrast / std::max(1 - dot(target, context), 1e-3);
    }

    static double dot(const std::vector<double>& a, const std::vector<double>& b) {
        return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
    }
};

class TemplateMemory {
  public:
    size_t slots = 1, capacity = 2;
    std::vector<Template> history;  // in order of time; the first is never given up

    void add(Template&& newest) {
        history.push_back(std::move(newest));
        if (history.size() > capacity) {  // the one that leaves the smallest gap in time is given up
            size_t least = 1;
            auto gap = [&](size_t i) { return history[i + 1].frame - history[i - 1].frame; };
            for (size_t i = 2; i + 1 < history.size(); i++)
                if (gap(i) < gap(least)) least = i;
            history.erase(history.begin() + least);
        }
        choose();
    }

    void forget_from(int frame) {  // the first always stays
        while (history.size() > 1 && history.back().frame >= frame) history.pop_back();
        choose();
    }

    double likeness(const Template& other) const {
        double best = -1e9;
        for (size_t place : chosen_) best = std::max(best, history[place].likeness(other));
        return best;
    }

    const KVCache& cache() const { return joined_; }

  private:
    std::set<size_t> chosen_;
    KVCache joined_;

    void choose() {  // the first, the newest, and those nearest to a linear spread of frames between
        const size_t last = slots > 1 ? history.size() - 1 : 0;
        const double first = history[0].frame, step = slots > 1 ? (history[last].frame - first) / (slots - 1.0) : 0;
        chosen_ = {0, last};
        for (size_t slot = 1; slot + 1 < slots; slot++) {
            double least = 1e18;
            size_t best = 0;
            for (size_t place = 0; place < history.size(); place++) {
                const double distance = std::abs(history[place].frame - (slot * step + first));
                if (!chosen_.count(place) && distance < least) least = distance, best = place;
            }
            chosen_.insert(best);  // 0, which is there already, where none was free
        }
        joined_ = {history[0].cache.shape, {}};
        const auto [layers, heads, _, channels] = joined_.shape;
        for (int64_t lead = 0; lead < layers * heads; lead++)
            for (size_t place : chosen_) {
                const auto& own = history[place].cache;
                const auto begin = own.data.begin() + lead * own.shape[2] * channels;
                joined_.data.insert(joined_.data.end(), begin, begin + own.shape[2] * channels);
            }
        joined_.shape[2] = int64_t(joined_.data.size()) / (layers * heads * channels);
    }
};

// ----------------------------------------------------------------------------------------------------------- recovery

enum class Status { tracking, uncertain, lost };

struct Recovery {
    Box sure;
    Status status = Status::tracking;
    int doubtful = 0, turn = 0;
    bool found = false;
    std::array<double, 2> rate{};  // the usual absolute change of the logarithm of width and height a frame

    bool seeking() const { return status == Status::lost && !found; }

    bool plausible(const Box& box) const {
        auto alike = [&](int i) { return std::abs(std::log(box[i] / sure[i])) < std::log(2.5); };
        return alike(2) && alike(3);
    }
};

constexpr double WIDEST = 2.5;
constexpr int GROWING = 4;  // frames until windows that grow by 1.3 a frame are WIDEST

inline std::vector<Crop> cover(const Image& frame, double side) {
    std::array<double, 2> lengths{double(frame.width), double(frame.height)};
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

inline bool is_plain(const Pixels& crop, int side) {
    double most = 0;
    for (int c = 0; c < 3; c++) {
        double count = 0, sum = 0, squares = 0;
        for (int y = 0; y < side; y += 4)
            for (int x = 0; x < side; x += 4) {
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

// ----------------------------------------------------------------------------------------------------------- the loop

struct Track {
    Box box;
    double score;
    Status state;
};

/** Follows one target through frames of one size. */
class Tracker {
  public:
    explicit Tracker(Model& model) : model_(model), settings_(model.settings) {}

    Track init(const Image& frame, const Box& box) {
        frame_ = 0, score_ = 1;
        memory_.slots = size_t(set("templates")), memory_.capacity = size_t(set("capacity"));
        memory_.history.clear();
        memory_.add(take_template(frame, box, 0));
        trajectory_.assign(std::max(model_.trajectory, 1), box);
        recovery_ = {box}, thumbnail_ = thumbnail(frame);
        return {clip_box(box, frame.width, frame.height), 1, Status::tracking};
    }

    Track update(const Image& frame) {
        frame_++;
        const Recovery before = recovery_;
        const bool seeking = before.seeking(), recovers = set("lost_score") > 0, known = memory_.history.size() > 1;
        const bool on_time = set("templates") > 1 && frame_ - memory_.history.back().frame >= set("interval");

        // What the network is shown, and what it finds: of a lost target, the better of two windows.
        int side = model_.search_size;
        std::vector<Crop> windows;
        std::vector<int64_t> tokens(4 * model_.trajectory, NO_TRAJECTORY);
        if (seeking) {
            windows = seek(before.sure, frame, model_.search_factor, before.turn);
        } else {
            windows = {Crop::around(trajectory_.back(), model_.search_factor)};
            for (size_t i = 0; i < tokens.size(); i++) tokens[i] = encode(windows[0].to_crop(trajectory_[i / 4])[i % 4]);
            side = shown_side(windows[0], on_time);
        }
        std::vector<Pixels> crops;
        for (const Crop& window : windows)
            crops.push_back(window.center(double(side) / model_.search_size).extract(frame, side));
        const auto all = model_.search(crops, side, tokens, memory_.cache());
        const size_t best = all.size() > 1 && all[1].score > all[0].score;
        const Pixels& crop = crops[best];
        Found found = all[best];

        // Whether it is to be believed.
        const bool plain = recovers && is_plain(crop, side);
        if (plain) found.score = 0;
        const bool timely = before.status != Status::lost && on_time;
        bool due = timely && found.score >= set("template_score");
        auto first_alone = [&] { return model_.search({crop}, side, tokens, memory_.history[0].cache)[0]; };
        if (seeking && found.score >= set("found_score") && known) {
            const Found alone = first_alone();
            if (alone.score < set("template_score") || overlap(alone.corners, found.corners) < 0.5) found.score = 0;
        } else if (!seeking && due && set("agreement") > 0 && known) {
            const Found alone = first_alone();
            if (overlap(alone.corners, found.corners) < set("agreement")) {
                due = false;
                if (alone.score >= set("template_score")) found = alone;
            }
        }
        auto rate = before.rate;
        Box box = image_box(frame, windows[best], found, seeking, rate);
        const Thumbnail small = thumbnail(frame);
        const bool cut = recovers && is_cut(thumbnail_, small);
        const bool doubted = recovers && (timely || cut || before.status != Status::tracking);
        std::vector<Template> taken;
        if (due || (doubted && found.score >= set(seeking ? "found_score" : "lost_score"))) {
            taken.push_back(take_template(frame, box, std::min(1, model_.identities - 1)));
            if (recovers && memory_.likeness(taken[0]) < set("likeness")) found.score = 0;
        }

        // What follows from it.
        recovery_.doubtful++, recovery_.turn += seeking && !plain, recovery_.found = false;
        if (seeking) {
            recovery_.found = found.score >= set("found_score") && before.plausible(box);
            if (recovery_.found) trajectory_.assign(trajectory_.size(), box);
        } else {
            if (found.score < set("hold_score")) box = trajectory_.back(), rate = before.rate;
            recovery_.rate = rate;
            trajectory_.erase(trajectory_.begin());
            trajectory_.push_back(box);
            if (found.score >= set("lost_score")) {
                recovery_ = {box, Status::tracking, 0, 0, false, rate};
            } else if (recovery_.doubtful < set("patience") && before.status != Status::lost && !cut) {
                recovery_.status = Status::uncertain;
            } else {
                if (before.status != Status::lost)
                    memory_.forget_from(frame_ - recovery_.doubtful - int(set("interval")));
                recovery_.status = Status::lost;
                if (cut) recovery_.turn = GROWING;
                trajectory_.assign(trajectory_.size(), recovery_.sure);
            }
        }
        if (due && !taken.empty() && recovery_.status == Status::tracking) memory_.add(std::move(taken[0]));
        score_ = found.score, thumbnail_ = small;
        const bool lost = recovery_.status == Status::lost;
        return {clip_box(lost ? recovery_.sure : trajectory_.back(), frame.width, frame.height),
                lost ? 0 : model_.calibrated(score_), recovery_.status};
    }

  private:
    Model& model_;
    std::map<std::string, double> settings_;
    int frame_ = 0;
    double score_ = 1;  // of the last frame, raw
    std::vector<Box> trajectory_;
    TemplateMemory memory_;
    Recovery recovery_{};
    Thumbnail thumbnail_{};

    double set(const char* name) const { return settings_.at(name); }

    Template take_template(const Image& frame, const Box& box, int identity) {
        const Crop window = Crop::of_template(box, model_.template_factor);
        Pixels crop = window.extract(frame, model_.template_size);
        Box corners = window.to_crop(box);
        for (double& value : corners) value = std::min(std::max(value, 0.0), 1.0);
        return Template(frame_, model_.encode_template(crop, identity, corners), corners);
    }

    /** The side, in pixels, of the search window's center that is shown: the whole, or less for a slow, sure target. */
    int shown_side(const Crop& window, bool on_time) const {
        if (set("min_window") == 1 || score_ < set("confident_score") || (set("agreement") > 0 && on_time))
            return model_.search_size;
        double speed = 0;
        std::array<double, 4> last{}, now{};
        for (size_t i = 0; i < trajectory_.size(); i++, last = now) {
            now = window.to_crop(trajectory_[i]);
            for (int axis = 0; i > 0 && axis < 2; axis++)
                speed = std::max(speed, std::abs((now[axis] + now[axis + 2]) / 2 - (last[axis] + last[axis + 2]) / 2));
        }
        const int grid = model_.search_size / model_.patch;
        const double radius = std::max(now[2] - now[0], now[3] - now[1]) / 2 + 2 * speed + 0.06;
        const int missing = int((1 - std::max(2 * radius, set("min_window"))) * grid / 2);
        return (grid - 2 * std::max(missing, 0)) * model_.patch;
    }

    /** The image box of what was found, and how fast its sides usually change. */
    Box image_box(const Image& frame, const Crop& window, const Found& found, bool seeking, std::array<double, 2>& rate) {
        const auto& c = found.corners;
        const Box raw = window.to_image({std::min(c[0], c[2]), std::min(c[1], c[3]), std::max(c[0], c[2]), std::max(c[1], c[3])});
        const double lengths[] = {double(frame.width), double(frame.height)};
        Box box;
        for (int i : {0, 1}) {
            double length = std::max(raw[i + 2], 1.0), last = trajectory_.back()[i + 2];
            if (set("lost_score") > 0 && !seeking) {
                if (found.score >= set("lost_score")) {
                    const double change = std::log(length / last), bound = std::max(set("size_step"), 3 * rate[i]);
                    length = last * std::exp(std::min(std::max(change, -bound), bound));
                    rate[i] = 0.9 * rate[i] + (1 - 0.9) * std::min(std::abs(change), 0.5);
                } else {
                    length = last;
                }
            }
            length = std::min(std::max(length, 1.0), lengths[i]);
            const double center = std::min(std::max(raw[i] + raw[i + 2] / 2, 0.0), lengths[i]);
            box[i] = center - length / 2, box[i + 2] = length;
        }
        for (double& value : box) value = std::floor(value / 0.125 + 0.5 + 1e-4) * 0.125;
        return box;
    }
};

}  // namespace fartrack
