/** What a visitor does, for the tests of the page. */

import { expect, type Page } from "@playwright/test";

export type Four = readonly [number, number, number, number];

export async function openClip(page: Page, path: string): Promise<void> {
  await page.locator("#file").setInputFiles(path);
  await expect(page.locator("#work")).toBeVisible();
  await expect(page.locator("#message")).toContainText("frames,");
  await expect(page.locator("#picture")).toHaveAttribute("data-frame", "0");
}

export async function openSample(page: Page): Promise<void> {
  await page.goto("/");
  await page.getByRole("button", { name: "Try the sample" }).click();
  await expect(page.locator("#message")).toContainText("sample.mp4: 180 frames, 640×360");
  await expect(page.locator("#picture")).toHaveAttribute("data-frame", "0");
}

/** Drag a box, given in pixels of the frame, from corner to corner. */
export async function drag(page: Page, [x, y, w, h]: Four): Promise<void> {
  const overlay = page.locator("#overlay");
  const place = (await overlay.boundingBox())!;
  const [width, height] = await page
    .locator("#picture")
    .evaluate((canvas: HTMLCanvasElement) => [canvas.width, canvas.height]);
  const to = (px: number, py: number) =>
    page.mouse.move(place.x + (px / width) * place.width, place.y + (py / height) * place.height);
  await to(x, y);
  await page.mouse.down();
  await to(x + w / 2, y + h / 2);
  await to(x + w, y + h);
  await page.mouse.up();
}

export async function track(page: Page): Promise<string> {
  await page.getByRole("button", { name: "Track", exact: true }).click();
  const message = page.locator("#message");
  await expect(message).toHaveText(/^(Tracked|Stopped)/, { timeout: 600_000 });
  return (await message.textContent())!;
}

export async function download(page: Page, name: string): Promise<{ path: string; file: string }> {
  const [saved] = await Promise.all([
    page.waitForEvent("download", { timeout: 300_000 }),
    page.getByRole("button", { name, exact: true }).click(),
  ]);
  return { path: await saved.path(), file: saved.suggestedFilename() };
}
