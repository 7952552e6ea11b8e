/**
 * The type of a file, from its first bytes; names and media types of files are often wrong.
 */

const text = (bytes, from, to) => String.fromCharCode(...bytes.slice(from, to));

/** The beginnings of files that people take for pictures; see fxprofile/crunch/signature.py. */
const BEGINNINGS = [
  ["\xff\xd8\xff", "JPEG", "image/jpeg"],
  ["\x89PNG\r\n\x1a\n", "PNG", "image/png"],
  ["GIF8", "GIF", "image/gif"],
  ["\xff\x0a", "JPEG XL"],
  ["\0\0\0\x0cJXL ", "JPEG XL"],
  ["\0\0\0\x0cjP  ", "JPEG 2000"],
  ["II*\0", "TIFF"],
  ["MM\0*", "TIFF"],
  ["BM", "BMP"],
  ["\0\0\x01\0", "ICO"],
  ["8BPS", "Photoshop"],
  ["%PDF-", "PDF"],
  ["<svg", "SVG"],
  ["<?xml", "SVG"],
];

const BRANDS = [
  [/^(avif|avis)$/, "AVIF", "image/avif"],
  [/^he(ic|ix|im|is|vc|vx)$/, "HEIC", "image/heic"],
  [/^(isom|iso\d|mp4\d|M4V |qt  |3gp.)$/, "video"],
];

/**
 * @param {Blob} file
 * @returns {Promise<{name: string, type?: string}>}
 *     name: empty if the type is unknown.
 *     type: the media type to upload it with, if a service may accept it.
 * @throws {DOMException} if the file cannot be read.
 */
export async function identify(file) {
  const bytes = new Uint8Array(await file.slice(0, 256).arrayBuffer());
  const beginning = text(bytes, 0, 16);
  for (const [start, name, type] of BEGINNINGS) if (beginning.startsWith(start)) return { name, type };
  if (/^RIFF.{4}WEBP/s.test(beginning)) return { name: "WebP", type: "image/webp" };
  if (beginning.slice(4, 8) === "ftyp") return brand(bytes);
  return { name: "" };
}

/** Read the major and the compatible brands (ISO/IEC 14496-12, section 4.3). */
function brand(bytes) {
  const end = Math.min(new DataView(bytes.buffer).getUint32(0), bytes.length);
  const found = [text(bytes, 8, 12)];
  for (let at = 16; at + 4 <= end; at += 4) found.push(text(bytes, at, at + 4));
  for (const [pattern, name, type] of BRANDS) {
    if (found.some((one) => pattern.test(one))) return { name, type };
  }
  return { name: "" };
}
