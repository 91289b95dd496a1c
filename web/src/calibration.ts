/** From the raw score to the chance that a box is right, as in Python's `calibration.py` (Platt scaling). */

export interface Calibration {
  slope: number;
  bias: number;
}

const EDGE = 1e-4;

export function calibrate({ slope, bias }: Calibration, raw: number): number {
  const inside = Math.min(Math.max(raw, EDGE), 1 - EDGE);
  const logit = Math.log(inside) - Math.log1p(-inside);
  return 0.5 + Math.tanh((slope * logit + bias) / 2) / 2;
}
