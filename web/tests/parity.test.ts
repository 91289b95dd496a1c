/** The page's arithmetic against values that Python wrote (`tests/web/fixtures.py`); `FIXTURES` is their file. */

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { calibrate } from "../src/calibration";
import { type Colors, colorTables } from "../src/color";
import { sceneOf, shows } from "../src/distractors";
import { place, RgbFrame, YuvFrame } from "../src/frames";
import { type Box, clipBox, Crop, type Frame, iou } from "../src/geometry";
import { cover, isCut, isPlain, limited, seek, sureAt, thumbnail } from "../src/recovery";
import { type KVCache, type Template, TemplateMemory } from "../src/templates";
import { type Engine, type Size, Tracker } from "../src/tracker";
import { BINS, decode, encode } from "../src/vocabulary";

const values = JSON.parse(readFileSync(process.env.FIXTURES!, "utf8"));
const bytes = (text: string) => new Uint8Array(Buffer.from(text, "base64"));
const floats = (text: string) => new Float32Array(bytes(text).buffer);

function rgb(text: string, width: number, height: number): Frame {
  return new RgbFrame({ data: bytes(text), offset: 0, stride: width * 3, step: 3 }, place(width, height, 0, false));
}

function differing(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(found.length).toBe(expected.length);
  let count = 0;
  for (let i = 0; i < found.length; i++) if (found[i] !== expected[i]) count++;
  return count;
}

function expectClose(found: readonly number[], expected: readonly number[], digits = 9): void {
  expect(found.length).toBe(expected.length);
  found.forEach((value, i) => expect(value).toBeCloseTo(expected[i], digits));
}

describe("geometry", () => {
  const { width, height, image, cases } = values.crops;
  test.each<any>(cases)("a crop of $side pixels as $size is OpenCV's", ({ x, y, side, size, pixels }) => {
    const found = new Crop(x, y, side).extract(rgb(image, width, height), size);
    // a processor without fused multiply-adds may round a value or two otherwise
    expect(differing(found, bytes(pixels))).toBeLessThanOrEqual(2);
  });

  test("boxes", () => {
    for (const { first, second, iou: overlap, clipped, corners } of values.boxes) {
      expect(iou(first, second)).toBeCloseTo(overlap, 12);
      expectClose(clipBox(first, width, height), clipped);
      expectClose(Crop.around(first, 4).toCrop(second), corners);
    }
  });
});

describe("colors", () => {
  const { width, height, planes, cases } = values.colors;
  const [y, u, v] = planes.map(bytes);
  const plane = (data: Uint8Array, stride: number) => ({ data, offset: 0, stride, step: 1 });

  test.each<any>(cases)("$matrix, full range $fullRange, is FFmpeg's", ({ matrix, fullRange, pixels }) => {
    const tables = colorTables({ matrix, fullRange } as Colors);
    const half = width / 2;
    const upright = place(width, height, 0, false);
    const frame = new YuvFrame([plane(y, width), plane(u, half), plane(v, half)], [1, 1], tables, upright);
    expect(differing(frame.region(0, 0, width, height).data, bytes(pixels))).toBe(0);
  });

  test("a picture lies upright however it was stored", () => {
    const data = Uint8Array.from({ length: 2 * 3 * 3 }, (_, i) => Math.floor(i / 3)); // 0 1 / 2 3 / 4 5
    const seen = (rotation: number, flip: boolean) => {
      const frame = new RgbFrame({ data, offset: 0, stride: 6, step: 3 }, place(2, 3, rotation, flip));
      return [...frame.region(0, 0, frame.width, frame.height).data].filter((_, i) => i % 3 === 0);
    };
    expect(seen(0, false)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(seen(90, false)).toEqual([4, 2, 0, 5, 3, 1]);
    expect(seen(180, false)).toEqual([5, 4, 3, 2, 1, 0]);
    expect(seen(270, false)).toEqual([1, 3, 5, 0, 2, 4]);
    expect(seen(0, true)).toEqual([1, 0, 3, 2, 5, 4]);
    expect(seen(90, true)).toEqual([0, 2, 4, 1, 3, 5]);
  });
});

test("vocabulary", () => {
  const { coordinates, tokens, logits, corners, scores } = values.vocabulary;
  expect(values.bins).toBe(BINS);
  expect(coordinates.map(encode)).toEqual(tokens);
  corners.forEach((expected: number[], i: number) => {
    const found = decode(floats(logits).subarray(i * 4 * BINS, (i + 1) * 4 * BINS));
    expectClose(found.corners, expected);
    expect(found.score).toBeCloseTo(scores[i], 9);
  });
});

test("calibration", () => {
  const { raw, chance } = values.calibration;
  expectClose(
    raw.map((score: number) => calibrate({ slope: 0.8849, bias: 0.0546 }, score)),
    chance,
  );
});

test("recovery", () => {
  const { sure, sizes, windows, tiles, limits, plain, thumbs, cuts } = values.recovery;
  const turns = sizes.flatMap((size: [number, number]) =>
    Array.from({ length: 14 }, (_, turn) => seek(sure, size, 4, turn)).flat(),
  );
  const same = (found: Crop[], expected: Crop[]) => {
    expect(found.length).toBe(expected.length);
    found.forEach((window, i) => expectClose([window.x, window.y, window.side], [expected[i].x, expected[i].y, expected[i].side]));
  };
  same(turns, windows);
  sizes.forEach((size: [number, number], i: number) => same(cover(size, 80), tiles[i]));
  for (const { sides, rate, bounded, after } of limits) {
    const found = limited({ ...sureAt(sure, null), rate }, sure, sides, 0.2);
    expectClose(found.sides, bounded);
    expectClose(found.rate, after);
  }
  const found = thumbs.map(({ image, width, height }: any) => thumbnail(rgb(image, width, height)));
  thumbs.forEach(({ thumbnail: expected }: any, i: number) => expectClose([...found[i]], expected, 0));
  cuts.forEach((row: boolean[], i: number) =>
    expect(found.map((other: Float64Array) => isCut(found[i], other))).toEqual(row),
  );
  for (const { crop, window, size, plain: expected } of plain)
    expect(isPlain(bytes(crop), 32, new Crop(window[0], window[1], window[2]), size)).toBe(expected);
});

test("distractors", () => {
  for (const { width, height, before, after, target, found, shows: expected } of values.distractors) {
    const scene = sceneOf(rgb(before, width, height), target);
    expect(shows(scene, sceneOf(rgb(after, width, height), found, scene.step))).toBe(expected);
  }
});

test("template memory", () => {
  const kvCache: KVCache = { data: new Float32Array(1), shape: [1, 1, 1], tokens: 1 };
  const taken = (frame: number): Template => ({
    frame,
    crop: new Uint8Array(),
    box: [0, 0, 1, 1],
    identity: 0,
    kvCache,
    target: new Float32Array(1),
    context: new Float32Array(1),
    keep: null,
    pruned: false,
    rest: null,
  });
  let memory = new TemplateMemory(5, 7, [taken(0)]);
  for (const { add, history, chosen } of values.memory) {
    memory = memory.add(taken(add));
    expect(memory.history.map(({ frame }) => frame)).toEqual(history);
    expect(memory.chosen).toEqual(chosen);
  }
});

describe("tracker", () => {
  const { config, frames, order, cases } = values.runs;
  const { width, height } = values.crops;
  const pictures: Frame[] = frames.map((text: string) => rgb(text, width, height));

  test.each<any>(cases)("boxes, scores and states with $settings", async ({ settings, logits, calls, sizes, templates, tracks }) => {
    const answers = floats(logits);
    const shown: Size[] = [];
    const next = (crop: Uint8Array, size: Size) => {
      expect(crop.length).toBe(size[0] * size[1] * 3);
      const call = shown.push(size);
      return answers.subarray((call - 1) * 4 * BINS, call * 4 * BINS);
    };
    const engine: Engine = {
      config,
      beginTemplate: async (crop) => {
        const token = (i: number) => ((Math.floor(i / 4) * 8 + 3) * 32 + (i % 4) * 8 + 4) * 3;
        const one = Array.from({ length: 16 }, (_, i) => [...crop.subarray(token(i), token(i) + 3)]).flat();
        const data = Float32Array.from(one, (value) => value / 128 - 1);
        const kvCache = { data, shape: [1, 1, 16, 3], tokens: 16 };
        return { kvCache, rest: kvCache };
      },
      finishTemplate: async (rest) => rest,
      search: async (crop, size) => next(crop, size),
      searchScored: async (crop, size, _trajectory, { tokens, shape, data }) => {
        expect(shape).toEqual([2, 1, tokens, 3]);
        expect(data.length).toBe(2 * tokens * 3);
        return { logits: next(crop, size), scores: Float32Array.from({ length: tokens }, (_, i) => (i * 37) % 11) };
      },
    };
    const tracker = new Tracker(engine, settings, { slope: 0.9, bias: 0.05 });
    let state = await tracker.start(pictures[0], [50, 30, 24, 18]);
    for (const [number, expected] of tracks.entries()) {
      const after = await tracker.step(state, pictures[order[number]]);
      state = after.state;
      expectClose(after.track.box as Box, expected.box);
      expect(after.track.score).toBeCloseTo(expected.score, 9);
      expect(after.track.state).toBe(expected.state);
    }
    expect(shown.length).toBe(calls);
    expect(shown).toEqual(sizes);
    expect(state.memory.history.map(({ frame }) => frame)).toEqual(templates);
  });
});
