"""Draw tracks with the annotators of `supervision` (pip install supervision).

python examples/supervision_annotators.py clip.mp4 100,120,40,60 out.mp4
"""

import sys

import numpy as np
import supervision as sv

import fartrack


def to_detections(tracks: dict[int, fartrack.Track]) -> sv.Detections:
    """Tracks by target number, as of `MultiTracker.update`, without those that are lost."""
    seen = {number: track for number, track in tracks.items() if track.state != "lost"}
    if not seen:
        return sv.Detections.empty()
    boxes = np.array([track.box for track in seen.values()])
    return sv.Detections(
        xyxy=np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]),
        confidence=np.array([track.score for track in seen.values()]),
        class_id=np.zeros(len(seen), int),
        tracker_id=np.array(list(seen)),
    )


def main(source: str, box: str, output: str) -> None:
    """Follow the object in ``box`` (x,y,w,h in pixels of the first frame), and write the annotated video."""
    many = fartrack.MultiTracker(fartrack.load("pico"))
    boxes, labels, traces = sv.BoxAnnotator(), sv.LabelAnnotator(), sv.TraceAnnotator()
    with sv.VideoSink(output, sv.VideoInfo.from_video_path(source)) as sink:
        for index, frame in enumerate(sv.get_video_frames_generator(source)):
            if index == 0:
                number = many.add(frame, [float(v) for v in box.split(",")])
                tracks = {number: fartrack.Track(tuple(float(v) for v in box.split(",")), 1.0)}
            else:
                tracks = many.update(frame)
            found = to_detections(tracks)
            scene = boxes.annotate(traces.annotate(frame.copy(), found), found)
            names = [f"#{n}" for n in found.tracker_id] if len(found) else []
            sink.write_frame(labels.annotate(scene, found, names))


if __name__ == "__main__":
    main(*sys.argv[1:])
