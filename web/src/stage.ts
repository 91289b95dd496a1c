/** The frame with boxes on it, and boxes drawn by dragging. */

import { drawTrack } from "./draw";
import type { Box } from "./geometry";
import type { Track } from "./tracker";

export interface Shown {
  track: Track;
  label: string;
  color: string;
}

const LEAST_DRAG = 4; // pixels on the screen; less is a click
const GRID = 0.125;

export class Stage {
  readonly #picture: HTMLCanvasElement;
  readonly #overlay: HTMLCanvasElement;
  #size = { width: 0, height: 0 };
  #shown: Shown[] = [];
  #drag: { x: number; y: number; toX: number; toY: number } | null = null;

  constructor(
    private readonly root: HTMLElement,
    private readonly onDragStart: () => boolean,
    private readonly onBox: (box: Box) => void,
  ) {
    this.#picture = root.querySelector("#picture")!;
    this.#overlay = root.querySelector("#overlay")!;
    this.#overlay.addEventListener("pointerdown", (event) => this.#begin(event));
    this.#overlay.addEventListener("pointermove", (event) => this.#move(event));
    this.#overlay.addEventListener("pointerup", () => this.#end());
    this.#overlay.addEventListener("pointercancel", () => this.cancel());
    new ResizeObserver(() => this.#paint()).observe(root);
  }

  resize(width: number, height: number, pixelAspect: number): void {
    this.#size = { width, height };
    this.#picture.width = width;
    this.#picture.height = height;
    delete this.#picture.dataset.frame;
    this.root.style.setProperty("--ratio", String((width * pixelAspect) / height));
    this.#paint();
  }

  /** Show the picture of a frame. */
  show(picture: CanvasImageSource, frame: number): void {
    this.#picture.dataset.frame = String(frame);
    this.#picture.getContext("2d")!.drawImage(picture, 0, 0, this.#size.width, this.#size.height);
  }

  draw(shown: Shown[]): void {
    this.#shown = shown;
    this.#paint();
  }

  /** Give up the box that is being drawn; whether there was one. */
  cancel(): boolean {
    const drawing = this.#drag !== null;
    this.#drag = null;
    this.#paint();
    return drawing;
  }

  get picture(): HTMLCanvasElement {
    return this.#picture;
  }

  /** The frame whose picture is shown, -1 before the first. */
  get frame(): number {
    return Number(this.#picture.dataset.frame ?? -1);
  }

  #position(event: PointerEvent): { x: number; y: number } {
    const { left, top, width, height } = this.#overlay.getBoundingClientRect();
    return {
      x: ((event.clientX - left) / width) * this.#size.width,
      y: ((event.clientY - top) / height) * this.#size.height,
    };
  }

  #begin(event: PointerEvent): void {
    if (event.button !== 0 || !this.onDragStart()) return;
    this.#overlay.setPointerCapture(event.pointerId);
    const { x, y } = this.#position(event);
    this.#drag = { x, y, toX: x, toY: y };
  }

  #move(event: PointerEvent): void {
    if (!this.#drag) return;
    const { x, y } = this.#position(event);
    Object.assign(this.#drag, { toX: x, toY: y });
    this.#paint();
  }

  #end(): void {
    if (!this.#drag) return;
    const [x, y, w, h] = this.#dragged();
    const pixel = this.#size.width / this.#overlay.clientWidth;
    this.#drag = null;
    if (w > LEAST_DRAG * pixel && h > LEAST_DRAG * pixel) this.onBox([x, y, w, h]);
    this.#paint();
  }

  /** The box that is being drawn, within the frame. */
  #dragged(): Box {
    const { x, y, toX, toY } = this.#drag!;
    const { width, height } = this.#size;
    const snap = (value: number, most: number) => Math.round(Math.min(Math.max(value, 0), most) / GRID) * GRID;
    const [x0, x1] = [snap(Math.min(x, toX), width), snap(Math.max(x, toX), width)];
    const [y0, y1] = [snap(Math.min(y, toY), height), snap(Math.max(y, toY), height)];
    return [x0, y0, x1 - x0, y1 - y0];
  }

  #paint(): void {
    const overlay = this.#overlay;
    const scale = globalThis.devicePixelRatio || 1;
    overlay.width = Math.round(overlay.clientWidth * scale);
    overlay.height = Math.round(overlay.clientHeight * scale);
    const context = overlay.getContext("2d")!;
    const unit = [overlay.width / (this.#size.width || 1), overlay.height / (this.#size.height || 1)] as const;
    for (const { track, label, color } of this.#shown) drawTrack(context, track, label, color, unit);
    if (!this.#drag) return;
    const [x, y, w, h] = this.#dragged();
    const rectangle = [x * unit[0], y * unit[1], w * unit[0], h * unit[1]] as const;
    context.fillStyle = "rgba(255,255,255,0.12)";
    context.fillRect(...rectangle);
    context.lineWidth = 2 * scale;
    context.strokeStyle = "#fff";
    context.setLineDash([6 * scale, 4 * scale]);
    context.strokeRect(...rectangle);
  }
}
