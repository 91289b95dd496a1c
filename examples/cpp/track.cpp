// Follow one target through frames that come as PPM pictures on standard input; CSV on standard output.
//
// track FOLDER x,y,w,h [KEY=VALUE...] < frames.ppm > track.csv
//
// README.md beside this file tells how to build and run it.

#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "tracker.hpp"

/** The next picture of a stream of binary PPM (P6) with 8 bits a value; false at its end. */
static bool read_ppm(std::istream& in, int& width, int& height, fartrack::Pixels& rgb) {
    std::string magic;
    int most = 0;
    if (!(in >> magic)) return false;
    if (magic != "P6" || !(in >> width >> height >> most) || most != 255 || width < 1 || height < 1)
        throw std::runtime_error("The input is no binary PPM with 8 bits a value; write it as README.md tells.");
    in.get();
    rgb.resize(size_t(width) * height * 3);
    if (!in.read(reinterpret_cast<char*>(rgb.data()), std::streamsize(rgb.size())))
        throw std::runtime_error("The last picture of the input is cut off.");
    return true;
}

int main(int count, char** arguments) try {
    fartrack::Box box;
    if (count < 3 || std::sscanf(arguments[2], "%lf,%lf,%lf,%lf", &box[0], &box[1], &box[2], &box[3]) != 4)
        throw std::runtime_error("usage: track FOLDER x,y,w,h [KEY=VALUE...] < frames.ppm > track.csv");
    std::ios::sync_with_stdio(false);
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // or it writes into the home folder and looks up a host of its vendor's
    fartrack::Model model(arguments[1], {arguments + 3, arguments + count});
    fartrack::Tracker tracker(model);
    fartrack::Pixels rgb;
    std::puts("frame,x,y,w,h,score,state");
    for (int frame = 0, width, height; read_ppm(std::cin, width, height, rgb); frame++) {
        const fartrack::Image image{width, height, rgb.data()};
        const auto [found, score, state] = frame ? tracker.update(image) : tracker.init(image, box);
        const char* name = std::array{"tracking", "uncertain", "lost"}[size_t(state)];
        std::printf("%d,%.3f,%.3f,%.3f,%.3f,%.4f,%s\n", frame, found[0], found[1], found[2], found[3], score, name);
    }
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 2;
}
