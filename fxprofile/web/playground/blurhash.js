/**
 * Draw a BlurHash: https://github.com/woltapp/blurhash/blob/master/Algorithm.md.
 */

const DIGITS =
  "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#$%*+,-.:;=?@[]^_{|}~";

/**
 * @param {HTMLCanvasElement} canvas filled, at any size.
 * @param {string} hash
 */
export function draw(canvas, hash) {
  const { width, height } = canvas;
  const waves = read(hash);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const light = [0, 0, 0];
      for (const { across, down, colour } of waves) {
        const share =
          Math.cos((Math.PI * across * x) / width) * Math.cos((Math.PI * down * y) / height);
        for (let i = 0; i < 3; i++) light[i] += colour[i] * share;
      }
      image.data.set([...light.map(toSrgb), 255], 4 * (y * width + x));
    }
  }
  context.putImageData(image, 0, 0);
}

/** Return the components of the picture: cosine waves with colours in linear light. */
function read(hash) {
  const counts = number(hash, 0, 1);
  const columns = (counts % 9) + 1;
  const strongest = (number(hash, 1, 2) + 1) / 166;
  const waves = [];
  for (let index = 0; index < columns * (Math.floor(counts / 9) + 1); index++) {
    const colour = index === 0 ? mean(hash) : wave(hash, index, strongest);
    waves.push({ across: index % columns, down: Math.floor(index / columns), colour });
  }
  return waves;
}

function mean(hash) {
  const value = number(hash, 2, 6);
  return [value >> 16, (value >> 8) & 255, value & 255].map(toLinear);
}

function wave(hash, index, strongest) {
  const value = number(hash, 4 + 2 * index, 6 + 2 * index);
  return [Math.floor(value / 361), Math.floor(value / 19) % 19, value % 19].map((step) => {
    const strength = (step - 9) / 9;
    return Math.sign(strength) * strength * strength * strongest;
  });
}

/** Decode a number from digits of base 83. */
function number(hash, from, to) {
  return [...hash.slice(from, to)].reduce((sum, digit) => sum * 83 + DIGITS.indexOf(digit), 0);
}

/** Convert linear light to sRGB (IEC 61966-2-1), from 0 to 255. */
function toLinear(value) {
  const share = value / 255;
  return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
}

function toSrgb(light) {
  const share = Math.min(Math.max(light, 0), 1);
  const curved = share <= 0.0031308 ? share * 12.92 : 1.055 * share ** (1 / 2.4) - 0.055;
  return Math.round(curved * 255);
}
