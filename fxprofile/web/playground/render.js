/**
 * Decode a picture, draw its crop at any size, and encode it for the upload.
 *
 * The editor is drawn by hand, because each of its steps has a key and is announced, and a large
 * photo is scaled down in halves: in one pass, browsers make it visibly coarse.
 */

/** The longest side of an upload, in pixels: twice that of the largest avatar. */
export const LONGEST = 1200;

/** The pixels that a tab can decode without running out of memory. */
export const MOST_PIXELS = 200e6;

const QUALITY = 0.9;

/**
 * Read the sides of a picture without decoding its pixels.
 *
 * @param {Blob} file
 * @returns {Promise<?{width: number, height: number}>} as its orientation shows them; null if the
 *     browser does not know the format.
 */
export async function measure(file) {
  const image = new Image();
  const address = URL.createObjectURL(file);
  try {
    return await new Promise((resolve) => {
      image.onload = () => resolve({ width: image.naturalWidth, height: image.naturalHeight });
      image.onerror = () => resolve(null);
      image.src = address;
    });
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** A decoded picture in its full size and in halves of it, so that it is scaled down evenly. */
export class Pyramid {
  /** @param {ImageBitmap} bitmap */
  constructor(bitmap) {
    this.width = bitmap.width;
    this.height = bitmap.height;
    this.levels = [bitmap];
  }

  /**
   * @param {Blob} file
   * @returns {Promise<Pyramid>} upright, whatever the orientation in its metadata.
   * @throws {DOMException} if the browser cannot decode it.
   */
  static async decode(file) {
    return new Pyramid(await createImageBitmap(file, { imageOrientation: "from-image" }));
  }

  /** Return the smallest level that is still larger than the result, by its scale. */
  level(scale) {
    let index = 0;
    while (scale * 2 ** (index + 1) <= 1 && this.side(index) > 2) index += 1;
    while (this.levels.length <= index) this.levels.push(half(this.levels.at(-1)));
    return this.levels[index];
  }

  side(index) {
    return Math.min(this.width, this.height) / 2 ** index;
  }

  /**
   * Draw the crop so that it fills a canvas of the same proportions.
   *
   * @param {HTMLCanvasElement} canvas
   * @param {import("./crop.js").Crop} crop
   */
  draw(canvas, crop) {
    const [across, down] = this.scales(canvas, crop);
    const picture = this.level(Math.max(across, down));
    const context = canvas.getContext("2d");
    context.resetTransform();
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.translate(canvas.width / 2, canvas.height / 2);
    context.rotate(crop.angle);
    context.scale(across, down);
    if (crop.whole) context.translate(-this.width / 2, -this.height / 2);
    else context.translate(-crop.x, -crop.y);
    context.drawImage(picture, 0, 0, this.width, this.height);
  }

  /** Return the scales by which the picture is drawn; the second differs by rounding only. */
  scales(canvas, crop) {
    const scales = [canvas.width / crop.sides[0], canvas.height / crop.sides[1]];
    return crop.quarters % 2 ? scales.reverse() : scales;
  }

  /** Whether the picture is transparent somewhere. */
  get isTransparent() {
    const scale = Math.min(1, LONGEST / Math.max(this.width, this.height));
    const canvas = sized(this.width * scale, this.height * scale);
    const context = canvas.getContext("2d");
    context.drawImage(this.level(scale), 0, 0, canvas.width, canvas.height);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 3; at < data.length; at += 4) if (data[at] < 255) return true;
    return false;
  }

  /** Free the memory of the picture. */
  close() {
    for (const level of this.levels) {
      if (level.close) level.close();
      else level.width = 0;
    }
  }
}

function half(picture) {
  const canvas = sized(Math.ceil(picture.width / 2), Math.ceil(picture.height / 2));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function sized(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  return canvas;
}

/**
 * Encode the crop: PNG if the picture is transparent somewhere, else JPEG.
 *
 * @param {Pyramid} pyramid
 * @param {import("./crop.js").Crop} crop
 * @param {{name: string, maxBytes: number}} options name: of the original file.
 * @returns {Promise<File>} at most LONGEST pixels wide and high, and never enlarged.
 * @throws {Error} if the browser cannot encode it in so few bytes.
 */
export async function encode(pyramid, crop, { name, maxBytes }) {
  const type = pyramid.isTransparent ? "image/png" : "image/jpeg";
  const most = Math.max(...crop.sides);
  for (let longest = Math.min(LONGEST, most); ; longest *= 0.7) {
    const canvas = sized(...crop.sides.map((side) => (side * longest) / most));
    pyramid.draw(canvas, crop);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, QUALITY));
    if (blob && blob.size <= maxBytes) {
      const suffix = type === "image/png" ? "png" : "jpg";
      return new File([blob], `${name.replace(/\.\w+$/, "")}.${suffix}`, { type });
    }
    if (longest < 100) throw new Error("This picture cannot be cropped here. Choose another one.");
  }
}
