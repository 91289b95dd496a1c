/** The page as a visitor uses it. */

import { readFileSync, writeFileSync } from "node:fs";
import { expect, type Page, test } from "@playwright/test";
import { download, drag, type Four, openSample, track } from "./actions";

const CUP: Four = [108, 95, 91.5, 84];
const BLUE_CUP: Four = [458, 239, 84, 78]; // on frame 30

/** Draw on a frame and track from there, up to the end or for so many frames. */
async function trackSome(page: Page, frames = Infinity): Promise<void> {
  if (frames === Infinity) return void (await track(page));
  await page.getByRole("button", { name: "Track", exact: true }).click();
  const counter = page.locator("#targets small").first();
  await expect.poll(async () => parseInt((await counter.textContent())!), { timeout: 120_000 }).toBeGreaterThan(frames);
  await page.keyboard.press("Escape");
  await expect(page.locator("#message")).toHaveText(/^Stopped/);
}

const place = (page: Page) => page.locator("#place").textContent();
const go = async (page: Page, frame: number) => {
  await page.keyboard.press("Home");
  for (let i = 0; i < Math.floor(frame / 10); i++) await page.keyboard.press("Shift+ArrowRight");
  for (let i = 0; i < frame % 10; i++) await page.keyboard.press("ArrowRight");
  await expect(page.locator("#place")).toContainText(`${frame} / `);
  await expect(page.locator("#picture")).toHaveAttribute("data-frame", String(frame));
};

test("stops, goes on, is corrected; earlier frames are kept", async ({ page }) => {
  await openSample(page);
  await expect(page.locator("#hint")).toHaveText("Drag a box around the object");
  await drag(page, CUP);
  await trackSome(page, 25);
  const stopped = readFileSync((await download(page, "CSV")).path, "utf8");
  const rows = stopped.trim().split("\n");
  expect(rows[0]).toBe("frame,time,x,y,w,h,score,state");
  expect(rows[1]).toBe("0,0.0,108.0,95.0,91.5,84.0,1.0,tracking");
  await expect(page.locator("#templates figure")).not.toHaveCount(0);

  await go(page, 15);
  await drag(page, [200, 100, 60, 50]);
  await expect(page.locator("#state")).toHaveText("drawn");
  await trackSome(page, 20);
  const corrected = readFileSync((await download(page, "CSV")).path, "utf8").trim().split("\n");
  expect(corrected.slice(0, 16)).toEqual(rows.slice(0, 16));
  expect(corrected[16]).toBe("15,0.6,200.0,100.0,60.0,50.0,1.0,tracking");
  expect(corrected.length).toBeGreaterThan(18);
  expect(corrected[18]).not.toBe(rows[18]);
});

test("several targets in every output", async ({ page }) => {
  await openSample(page);
  await go(page, 4);
  await drag(page, [116, 100, 92, 84]);
  await expect(page.locator("#targets li")).toHaveCount(1);
  await page.getByRole("button", { name: "Add a target" }).click();
  await drag(page, [300, 200, 60, 60]);
  await page.getByLabel("Name of target 1").fill("cup");
  await page.keyboard.press("Enter");
  await expect(page.locator("#targets li")).toHaveCount(2);
  await page.locator("#overlay").hover(); // away from the field, so that keys are the page's
  await page.locator("#timeline").focus();
  await trackSome(page, 6);

  const csv = await download(page, "CSV");
  expect(csv.file).toBe("sample.csv");
  const lines = readFileSync(csv.path, "utf8").trim().split("\n");
  expect(lines[0]).toBe("frame,time,x,y,w,h,score,state,target");
  expect(lines[1]).toBe("4,0.16,116.0,100.0,92.0,84.0,1.0,tracking,cup");
  expect(lines[2]).toBe("4,0.16,300.0,200.0,60.0,60.0,1.0,tracking,target 2");

  const json = JSON.parse(readFileSync((await download(page, "JSON")).path, "utf8"));
  expect(json.frames.length).toBe(lines.length - 1);
  expect(json).toMatchObject({ width: 640, height: 360, model: "pico-fast", fps: 25 });
  expect(json.targets).toEqual([
    { id: 1, name: "cup", anchors: [{ frame: 4, x: 116, y: 100, w: 92, h: 84 }] },
    { id: 2, name: "", anchors: [{ frame: 4, x: 300, y: 200, w: 60, h: 60 }] },
  ]);

  const video = await download(page, "Video");
  expect(video.file).toMatch(/^sample-tracked\.(mp4|webm)$/);
  const frames = (lines.length - 1) / 2;
  await page.locator("#file").setInputFiles(video.path);
  await expect(page.locator("#message")).toContainText(`${frames} frames, 640×360`);
  await expect(page.locator("#targets li")).toHaveCount(0);
});

test("keys: step, ten, ends, play, shuttle, pause", async ({ page }) => {
  await openSample(page);
  await page.keyboard.press("ArrowRight");
  await expect(page.locator("#place")).toContainText("1 / 179  ·  0.04 s");
  await page.keyboard.press("Shift+ArrowRight");
  await expect(page.locator("#place")).toContainText("11 / 179");
  await page.keyboard.press("ArrowLeft");
  await expect(page.locator("#place")).toContainText("10 / 179");
  await page.keyboard.press("End");
  await expect(page.locator("#place")).toContainText("179 / 179");
  await page.keyboard.press("Home");
  await expect(page.locator("#place")).toContainText("0 / 179");
  await page.keyboard.press("Space");
  await expect.poll(() => place(page)).not.toContain("0 / 179  ·  0.00");
  await page.keyboard.press("k");
  await page.keyboard.press("End");
  await expect(page.locator("#place")).toContainText("179 / 179");
  await page.keyboard.press("j");
  await expect.poll(() => place(page)).not.toContain("179 / 179");
  await page.keyboard.press("Escape");
  await page.keyboard.press("Home"); // near the end it would stop at once
  await page.keyboard.press("l");
  await expect(page.getByRole("button", { name: "Play" })).toHaveClass(/playing/);
});

test("the frame that is shown is the frame that was asked for", async ({ page }) => {
  await openSample(page);
  const picture = page.locator("#picture");
  const hash = async (frame: number) => {
    await expect(picture).toHaveAttribute("data-frame", String(frame));
    return picture.evaluate((canvas: HTMLCanvasElement) => {
      const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
      return data.reduce((sum, value, i) => (sum * 31 + value * (i % 97)) % 2147483647, 7);
    });
  };
  await go(page, 20);
  const straight = [await hash(20)];
  await page.keyboard.press("ArrowRight");
  straight.push(await hash(21));
  expect(straight[0]).not.toBe(straight[1]);
  await page.keyboard.press("End");
  await hash(179);
  for (let frame = 178; frame > 174; frame--) {
    await page.keyboard.press("ArrowLeft");
    await hash(frame);
  }
  await go(page, 21);
  expect(await hash(21)).toBe(straight[1]);
  await page.keyboard.press("ArrowLeft");
  expect(await hash(20)).toBe(straight[0]);
});

test("errors are one sentence, and the page goes on", async ({ page }, info) => {
  await openSample(page);
  const error = page.locator("#error span");
  const broken = info.outputPath("notes.mp4");
  writeFileSync(broken, "no video at all");
  await page.locator("#file").setInputFiles(broken);
  await expect(error).toHaveText(/^notes\.mp4 is not a video that can be read here/);
  const box = page.getByLabel("Box: x, y");
  await drag(page, CUP);
  for (const [text, sentence] of [
    ["1, 2, 3", /^A box is four numbers/],
    ["700, 10, 5, 5", /^The box lies outside of the frame/],
    ["5, 10, 0, 5", /^The box has no area/],
  ] as const) {
    await box.fill(text);
    await box.press("Enter");
    await expect(error).toHaveText(sentence);
  }
  await box.fill("10, 10, 50, 50");
  await box.press("Enter");
  await expect(page.locator("#error")).toBeHidden();
  await expect(page.locator("#state")).toHaveText("drawn");
});

test("a codec that the browser lacks is named", async ({ page }) => {
  test.skip(!process.env.HEVC, "no HEVC clip was given");
  await page.goto("/");
  await page.locator("#file").setInputFiles(process.env.HEVC!);
  await expect(page.locator("#error span")).toHaveText(/is HEVC \(H\.265\) video, which this browser cannot decode/);
});

test("the model is downloaded once", async ({ page }) => {
  const asked: string[] = [];
  page.on("request", (request) => asked.push(new URL(request.url()).pathname));
  await page.goto("/");
  await expect(page.locator("#model-state")).toContainText("is ready", { timeout: 60_000 });
  const first = asked.filter((path) => path.endsWith("weights.safetensors")).length;
  expect(first).toBe(1);
  await page.reload();
  await expect(page.locator("#model-state")).toContainText("is ready", { timeout: 60_000 });
  expect(asked.filter((path) => path.endsWith("weights.safetensors")).length).toBe(1);
  expect(asked.filter((path) => path.endsWith("files.json")).length).toBe(2);
});

test("webcam: a box is followed until Esc", async ({ page }) => {
  await page.goto("/");
  await page.getByRole("button", { name: "Use the webcam" }).click();
  await expect(page.locator("#message")).toContainText("Drag a box");
  await drag(page, [250, 150, 120, 120]);
  const counter = page.locator("#targets small").first();
  await expect.poll(async () => parseInt((await counter.textContent())!), { timeout: 120_000 }).toBeGreaterThan(4);
  await page.keyboard.press("Escape");
  await expect(page.locator("#message")).toHaveText("The webcam is closed.");
  const lines = readFileSync((await download(page, "CSV")).path, "utf8").trim().split("\n");
  expect(lines.length).toBeGreaterThan(4);
});

test.describe("on a phone", () => {
  test.use({ viewport: { width: 390, height: 800 } });
  test("nothing is wider than the page", async ({ page }) => {
    const wider = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await page.goto("/");
    expect(await wider()).toBeLessThanOrEqual(0);
    await openSample(page);
    await drag(page, CUP);
    expect(await wider()).toBeLessThanOrEqual(0);
  });
});

test("pictures for the docs", async ({ page }) => {
  const folder = process.env.PICTURES;
  test.skip(!folder, "no folder for them was given");
  await page.goto("/");
  await page.screenshot({ path: `${folder}/web-start.png` });
  await openSample(page);
  await drag(page, CUP);
  await page.getByRole("button", { name: "Add a target" }).click();
  await go(page, 30);
  await drag(page, BLUE_CUP);
  await page.locator("#targets li").first().click();
  await track(page);
  await page.keyboard.press("n");
  const doubtful = parseInt((await place(page))!);
  await expect(page.locator("#picture")).toHaveAttribute("data-frame", String(doubtful));
  await page.waitForTimeout(300);
  await page.screenshot({ path: `${folder}/web.png` });
  await page.emulateMedia({ colorScheme: "dark" });
  await page.setViewportSize({ width: 390, height: 1340 });
  await page.waitForTimeout(500);
  await page.screenshot({ path: `${folder}/web-phone.png` });
});
