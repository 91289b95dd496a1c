import { defineConfig } from "@playwright/test";

/** `PAGE` is the address of a running `fartrack web`, `CHROMIUM` the browser's program. */
export default defineConfig({
  testDir: "tests",
  testMatch: "*.spec.ts",
  timeout: 240_000,
  expect: { timeout: 20_000 }, // the machines of a gate are slow
  workers: 1,
  reporter: "line",
  use: {
    baseURL: process.env.PAGE,
    viewport: { width: 1280, height: 860 },
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        ...["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
        ...["--disable-component-update", "--disable-sync"],
        ...["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"],
      ],
    },
  },
});
