"""Look at tracks in FiftyOne (pip install fiftyone): a dataset of one video, with a detection on each frame.

fartrack track clip.mp4 --box cup=100,120,40,60 --json clip.json
python examples/fiftyone_dataset.py clip.mp4 clip.json
"""

import json
import sys
from pathlib import Path

import fiftyone as fo


def main(video: str, tracks: str, name: str = "fartrack") -> fo.Dataset:
    """The dataset of a video and of the JSON that ``fartrack track --json`` wrote for it."""
    result = json.loads(Path(tracks).read_text("utf-8"))
    labels = {target["id"]: target["label"] for target in result["targets"]}
    width, height = result["width"], result["height"]
    sample = fo.Sample(filepath=str(Path(video).resolve()))
    frames: dict[int, list[fo.Detection]] = {}
    for row in result["frames"]:
        shares = [row["x"] / width, row["y"] / height, row["w"] / width, row["h"] / height]
        detection = fo.Detection(
            label=labels[row["target"]],
            bounding_box=shares,
            confidence=row["score"],
            index=row["target"],
            state=row["state"],
        )
        frames.setdefault(row["frame"] + 1, []).append(detection)  # FiftyOne counts frames from 1
    for number, detections in frames.items():
        sample.frames[number] = fo.Frame(fartrack=fo.Detections(detections=detections))
    dataset = fo.Dataset(name, overwrite=True)
    dataset.add_sample(sample)
    return dataset


if __name__ == "__main__":
    fo.launch_app(main(*sys.argv[1:])).wait()
