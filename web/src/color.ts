/**
 * YUV with 8 bits → RGB as FFmpeg converts it for Python: fixed-point products that are rounded down, each chroma value
 * standing for all of its pixels. (FFmpeg interpolates chroma where the height is odd; this does not.)
 */

/** How much of V goes to red, of U to blue, and of U and V is taken from green, in units of 1/65536. */
const MATRICES = {
  bt601: [104597, 132201, 25675, 53279],
  bt709: [117489, 138438, 13975, 34925],
  bt2020: [110013, 140363, 12277, 42626],
} as const;

export interface Colors {
  matrix: keyof typeof MATRICES;
  fullRange: boolean;
}

export interface Tables {
  y: Int32Array;
  redV: Int32Array;
  greenU: Int32Array;
  greenV: Int32Array;
  blueU: Int32Array;
}

export function colorTables({ matrix, fullRange }: Colors): Tables {
  const [redV, blueU, greenU, greenV] = MATRICES[matrix].map((v) => (fullRange ? Math.trunc((v * 224) / 255) : v));
  const scale = fullRange ? 65536 : Math.trunc((65536 * 255) / 219);
  const table = (coefficient: number, offset: number) => {
    const factor = (coefficient * 8192 + 32768) >> 16;
    return Int32Array.from({ length: 256 }, (_, value) => ((value - offset) * 8 * factor) >> 16);
  };
  return {
    y: table(scale, fullRange ? 0 : 16),
    redV: table(redV, 128),
    greenU: table(-greenU, 128),
    greenV: table(-greenV, 128),
    blueU: table(blueU, 128),
  };
}
