import pickle

import pytest

from fartrack.errors import FartrackError, redact


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("rtsp://user:p@ss@host/cam", "rtsp://host/cam"),
        ("rtsp://user:p/ss@host/cam", "rtsp://host/cam"),
        ("rtsp://token@host:554/cam", "rtsp://host:554/cam"),
        ("RTSP:/user:p@ss@host/cam", "RTSP:/host/cam"),
        ("http://host/a.mp4?token=secret&x=1#y", "http://host/a.mp4?***"),
        ("http://host/a.mp4#access_token=secret", "http://host/a.mp4?***"),
        ("rtsp://host:554/user=admin&password=secret&channel=1", "rtsp://host:554/user=admin&password=***&channel=1"),
        ("http://host/@someone/a.mp4", "http://host/@someone/a.mp4"),
        ("http://host:80/a.mp4", "http://host:80/a.mp4"),
        ("file:///data/me@work/a.mp4", "file:///data/me@work/a.mp4"),
        ("C:/Users/me@work/a.mp4", "C:/Users/me@work/a.mp4"),
        ("folder/12:30@home.mp4", "folder/12:30@home.mp4"),
    ],
)
def test_secrets_of_a_url(url, told):
    assert redact(url) == told and redact(told) == told
    sentence = f"{url} cannot be opened; check it, and {url}."
    assert str(FartrackError(sentence)).startswith(f"{told} cannot be opened; check it, and {told[:-3]}")


def test_an_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(FartrackError("http://a:b@c cannot be opened.")))
    assert type(error) is FartrackError and str(error) == "http://c cannot be opened."
