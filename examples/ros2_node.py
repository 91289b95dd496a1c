"""A ROS 2 node that follows one target in a camera's pictures and publishes where it is.

python3 examples/ros2_node.py --ros-args -p box:=100,120,40,60 -r image:=/camera/image_raw

It reads `sensor_msgs/Image` (bgr8 or rgb8) from `image` and publishes `vision_msgs/Detection2D` on `track`. A box sent
to `box` (`std_msgs/String`, x,y,w,h in pixels) starts the tracker anew on the next picture.
"""

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String
from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose

import fartrack


class TrackNode(Node):
    """Follows one target; a picture before any box is passed over."""

    def __init__(self) -> None:
        super().__init__("fartrack")
        self.tracker = fartrack.load("pico")
        self.box = self.declare_parameter("box", "").value
        self.publisher = self.create_publisher(Detection2D, "track", 1)
        self.create_subscription(String, "box", lambda message: setattr(self, "box", message.data), 1)
        self.create_subscription(Image, "image", self.follow, 1)  # only the newest picture waits

    def follow(self, message: Image) -> None:
        """Find the target in a picture, and publish where it is, how sure that is, and its state."""
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        frame = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
        frame = np.ascontiguousarray(frame[..., ::-1] if message.encoding == "rgb8" else frame)
        if self.box:
            track, self.box = self.tracker.init(frame, [float(v) for v in self.box.split(",")]), ""
        elif self.tracker.state is None:
            return
        else:
            track = self.tracker.update(frame)
        x, y, w, h = track.box
        found = Detection2D(header=message.header)
        found.bbox.center.position.x, found.bbox.center.position.y = x + w / 2, y + h / 2
        found.bbox.size_x, found.bbox.size_y = w, h
        found.results.append(ObjectHypothesisWithPose())
        found.results[0].hypothesis.class_id, found.results[0].hypothesis.score = track.state, track.score
        self.publisher.publish(found)


if __name__ == "__main__":
    rclpy.init()
    rclpy.spin(TrackNode())
