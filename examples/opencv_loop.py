"""Follow one target in a plain OpenCV loop, and write what was found on the frames.

python examples/opencv_loop.py clip.mp4 100,120,40,60 out.avi
"""

import sys

import cv2

import fartrack


def main(source: str, box: str, output: str) -> list[fartrack.Track]:
    """Track the object in ``box`` (x,y,w,h in pixels of the first frame); its track on every frame."""
    video, tracker = cv2.VideoCapture(source), fartrack.load("pico")
    good, frame = video.read()
    if not good:
        sys.exit(f"{source} cannot be read.")
    size, fps = frame.shape[1::-1], video.get(cv2.CAP_PROP_FPS) or 25
    writer = cv2.VideoWriter(output, cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    tracks = []
    while good:
        track = tracker.update(frame) if tracks else tracker.init(frame, [float(v) for v in box.split(",")])
        tracks.append(track)
        x, y, w, h = (round(v) for v in track.box)
        color = (0, 0, 255) if track.state == "lost" else (0, 200, 0)
        cv2.rectangle(frame, (x, y), (x + w, y + h), color, 2)
        cv2.putText(frame, f"{track.score:.2f}", (x, y - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.6, color, 2)
        writer.write(frame)
        good, frame = video.read()
    writer.release()
    return tracks


if __name__ == "__main__":
    main(*sys.argv[1:])
