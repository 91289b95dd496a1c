// Boxes and crops, as src/fartrack/geometry.py has them; docs/loop.md gives the definitions.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace fartrack {

using Box = std::array<double, 4>;  // x, y, w, h in pixels; in a crop's own frame corners x0, y0, x1, y1
using Pair = std::array<double, 2>;
using Pixels = std::vector<uint8_t>;

struct Image {  // RGB, row by row, not owned
    int width, height;
    const uint8_t* rgb;
};

constexpr std::array<uint8_t, 3> PADDING{124, 116, 104};  // what lies outside of an image

inline double iou(const Box& a, const Box& b) {
    double w = std::max(std::min(a[0] + a[2], b[0] + b[2]) - std::max(a[0], b[0]), 0.0);
    double h = std::max(std::min(a[1] + a[3], b[1] + b[3]) - std::max(a[1], b[1]), 0.0);
    double whole = a[2] * a[3] + b[2] * b[3] - w * h;
    return whole > 0 ? w * h / whole : 0;
}

inline Box clip_box(const Box& box, double width, double height) {
    double w = std::min({1.0, box[2], width}), h = std::min({1.0, box[3], height});
    double x0 = std::min(std::max(box[0], 0.0), width - w), y0 = std::min(std::max(box[1], 0.0), height - h);
    double x1 = std::min(std::max(box[0] + box[2], x0 + w), width);
    double y1 = std::min(std::max(box[1] + box[3], y0 + h), height);
    return {x0, y0, x1 - x0, y1 - y0};
}

struct Crop {  // a square window of an image
    double x, y, side;

    static Crop around(const Box& box, double factor) {
        double side = std::max(factor * std::sqrt(box[2] * box[3]), 16.0);
        return {box[0] + box[2] / 2 - side / 2, box[1] + box[3] / 2 - side / 2, side};
    }

    static Crop of_template(const Box& box, double factor) {
        double needed = 1.15 * std::max(box[2], box[3]) / std::max(std::sqrt(box[2] * box[3]), 1e-9);
        return around(box, std::min(std::max(factor, needed), 1.5 * factor));
    }

    Crop center(double share) const {
        double edge = side * (1 - share) / 2;
        return {x + edge, y + edge, side * share};
    }

    Box to_crop(const Box& b) const {
        return {(b[0] - x) / side, (b[1] - y) / side, (b[0] + b[2] - x) / side, (b[1] + b[3] - y) / side};
    }

    Box to_image(const Box& c) const {
        return {c[0] * side + x, c[1] * side + y, c[2] * side - c[0] * side, c[3] * side - c[1] * side};
    }

    /** The window as size × size pixels: means of whole blocks, then linear interpolation in single precision. */
    Pixels extract(Image image, int size) const {
        double scale = side / size, left = x, top = y;
        Pixels means;
        if (int block = int(scale); block >= 2) {
            int x0 = std::max(int(std::floor(x)), 0), y0 = std::max(int(std::floor(y)), 0);
            int columns = (std::min(int(std::ceil(x + side)), image.width) - x0 + block - 1) / block;
            int rows = (std::min(int(std::ceil(y + side)), image.height) - y0 + block - 1) / block;
            if (columns > 0 && rows > 0) {
                means = block_means(image, x0, y0, columns, rows, block);
                image = {columns, rows, means.data()};
                left = (x - x0) / block, top = (y - y0) / block, scale /= block;
            }
        }
        return interpolate(image, float(scale), float(left + 0.5 * scale - 0.5), float(top + 0.5 * scale - 0.5), size);
    }

    static Pixels block_means(const Image& image, int x0, int y0, int columns, int rows, int block) {
        Pixels means;
        means.reserve(size_t(columns) * rows * 3);
        const float share = float(1.0 / (block * block));
        std::vector<int> sums(size_t(columns) * 3);
        const int across = std::min(columns * block, image.width - x0);  // what the image lacks there is padding
        for (int row = 0; row < rows; row++) {
            const int down = std::min(block, image.height - y0 - row * block);
            for (size_t i = 0; i < sums.size(); i++)
                sums[i] = (block * block - down * std::min(block, across - int(i / 3) * block)) * PADDING[i % 3];
            for (int j = 0; j < down; j++) {
                const uint8_t* line = image.rgb + (size_t(y0 + row * block + j) * image.width + x0) * 3;
                for (int i = 0; i < across; i++, line += 3)
                    for (int c = 0; c < 3; c++) sums[size_t(i / block) * 3 + c] += line[c];
            }
            for (int sum : sums)  // a half goes up in blocks of 2, and to the even number in larger ones
                means.push_back(uint8_t(block == 2 ? (sum + 2) >> 2 : std::nearbyint(float(sum) * share)));
        }
        return means;
    }

    static Pixels interpolate(const Image& image, float scale, float shift_x, float shift_y, int size) {
        auto fused = [](float a, float b, float c) { return float(double(a) * b + c); };  // rounded once
        auto pixel = [&](int px, int py) {
            bool in = px >= 0 && px < image.width && py >= 0 && py < image.height;
            return in ? image.rgb + (size_t(py) * image.width + px) * 3 : PADDING.data();
        };
        struct Place {
            int at;  // the pixel before it
            float weight;  // of the next
        };
        auto place = [](float position) {
            const float at = std::floor(position);
            return Place{int(at), position - at};
        };
        std::vector<Place> columns;
        for (int i = 0; i < size; i++) columns.push_back(place(fused(float(i), scale, shift_x)));
        Pixels out(size_t(size) * size * 3);
        uint8_t* next = out.data();
        for (int row = 0; row < size; row++) {
            const auto [y, wy] = place(float(row) * scale + shift_y);
            for (const auto& [x, wx] : columns) {
                const uint8_t *a = pixel(x, y), *b = pixel(x + 1, y), *c = pixel(x, y + 1), *d = pixel(x + 1, y + 1);
                for (int i = 0; i < 3; i++) {
                    const float upper = fused(wx, float(b[i] - a[i]), a[i]);
                    const float lower = fused(wx, float(d[i] - c[i]), c[i]);
                    *next++ = uint8_t(std::lrint(fused(wy, lower - upper, upper)));
                }
            }
        }
        return out;
    }
};

}  // namespace fartrack
