/** Coordinates ↔ tokens, as in Python's `vocabulary.py`. */

export const BINS = 600;
export const NO_TRAJECTORY = BINS + 4;
const LOW = -0.5;
const HIGH = 1.5;
const BIN_WIDTH = (HIGH - LOW) / BINS;
const DECODING_RADIUS = 12;

/** The token of a coordinate in a crop's frame; outliers take the outermost bin. */
export function encode(coordinate: number): number {
  return Math.min(Math.max(Math.floor((coordinate - LOW) / BIN_WIDTH), 0), BINS - 1);
}

export interface Decoded {
  corners: [number, number, number, number];
  /** The least probability mass behind a coordinate: the raw score. */
  score: number;
}

/** Logits (4, BINS): each coordinate is the expectation over the bins around the most likely one. */
export function decode(logits: ArrayLike<number>): Decoded {
  const corners: Decoded["corners"] = [0, 0, 0, 0];
  let score = 1;
  for (let coordinate = 0; coordinate < 4; coordinate++) {
    const first = coordinate * BINS;
    let best = 0;
    for (let bin = 1; bin < BINS; bin++) if (logits[first + bin] > logits[first + best]) best = bin;
    let all = 0;
    let near = 0;
    let moment = 0;
    for (let bin = 0; bin < BINS; bin++) {
      const weight = Math.exp(logits[first + bin] - logits[first + best]);
      all += weight;
      if (Math.abs(bin - best) > DECODING_RADIUS) continue;
      near += weight;
      moment += weight * (LOW + (bin + 0.5) * BIN_WIDTH);
    }
    corners[coordinate] = moment / near;
    score = Math.min(score, near / all);
  }
  return { corners, score };
}
