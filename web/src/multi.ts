/** Several targets of one video, as in Python's `multi.py`: one that was lost does not take the place of another. */

import { clipBox, type Frame, iou } from "./geometry";
import { type Recovery, scaled } from "./recovery";
import type { State, Track, Tracker } from "./tracker";

export type Found = { state: State; track: Track };

/** The next states and tracks of several targets. */
export async function stepAll(tracker: Tracker, states: readonly State[], frame: Frame): Promise<Found[]> {
  const found: Found[] = [];
  const small = tracker.thumbnail(frame);
  for (const state of states) found.push(await tracker.step(state, frame, small));
  return states.map((before, place) => apart(before, found[place], found));
}

function apart(before: State, after: Found, found: readonly Found[]): Found {
  if (before.recovery.status !== "lost" && !after.state.recovery.found) return after;
  const { trajectory, size } = after.state;
  const last = trajectory[trajectory.length - 1];
  const taken = found.some(
    ({ state: { recovery } }) =>
      recovery !== after.state.recovery && recovery.status === "tracking" && iou(last, recovery.sure) > 0.5,
  );
  if (!taken) return after;
  const known = scaled(before.recovery, before.size, size);
  const recovery: Recovery = { ...known, status: "lost", doubtful: known.doubtful + 1, found: false };
  const track: Track = { box: clipBox(recovery.sure, ...size), score: 0, state: "lost" };
  return { state: { ...after.state, recovery, told: "lost" }, track };
}
