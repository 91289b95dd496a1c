/** Boxes drawn on a frame: green over amber to red as the score falls; dashed while a target is lost. */

import type { Track } from "./tracker";

const STOPS = [
  [235, 58, 58],
  [250, 176, 20],
  [60, 205, 88],
] as const;

export const PALETTE = ["#3cc850", "#ffa028", "#3c96ff", "#ff6ec8", "#32d7dc", "#fadc28", "#ff6e6e", "#be96ff"];

export function scoreColor(score: number): string {
  const place = Math.min(Math.max(score, 0), 1) * 2;
  const low = Math.min(Math.floor(place), 1);
  const part = place - low;
  const rgb = STOPS[low].map((v, i) => Math.round(v + (STOPS[low + 1][i] - v) * part));
  return `rgb(${rgb.join(",")})`;
}

type Context = CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D;

/** Draw a track on a canvas where a pixel of the frame is `unit` pixels wide and high. */
export function drawTrack(
  context: Context,
  track: Track,
  label: string,
  color: string,
  unit: readonly [number, number] = [1, 1],
): void {
  const { width, height } = context.canvas;
  const line = Math.max(2, Math.round(Math.min(width, height) / 270));
  const [x, y, w, h] = track.box.map((v, i) => v * unit[i % 2]);
  const lost = track.state === "lost";
  context.save();
  context.setLineDash(lost ? [6 * line, 6 * line] : []);
  for (const [tone, thickness] of [
    ["rgba(24,24,24,0.85)", line + 2],
    [color, line],
  ] as const) {
    context.strokeStyle = tone;
    context.lineWidth = thickness;
    context.strokeRect(x, y, w, h);
  }
  const text = [label, lost ? "lost" : track.score.toFixed(2)].filter(Boolean).join(" ");
  const size = Math.max(12, Math.round(Math.min(width, height) / 32));
  context.font = `600 ${size}px system-ui, sans-serif`;
  const tagWidth = context.measureText(text).width + size * 0.8;
  const tagHeight = size * 1.5;
  const tagX = Math.min(Math.max(x - line / 2, 0), Math.max(width - tagWidth, 0));
  const places = [y - line - tagHeight, y + h + line, Math.max(y, 0)];
  const tagY = places.find((v) => v >= 0 && v <= height - tagHeight) ?? 0;
  context.fillStyle = color;
  context.fillRect(tagX, tagY, tagWidth, tagHeight);
  context.fillStyle = "#181818";
  context.textBaseline = "middle";
  context.fillText(text, tagX + size * 0.4, tagY + tagHeight / 2 + 1);
  context.restore();
}
