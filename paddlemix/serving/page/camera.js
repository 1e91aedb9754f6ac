// A photo from the camera.

import { byId, closable, say } from "./dom.js";
import { t } from "./i18n.js";

let stream = null;
let taken = null;

/** Set the dialog up, once; `take` gets each photo as a file. */
export function prepareCamera(take) {
  taken = take;
  const dialog = byId("camera-dialog");
  closable(dialog);
  dialog.addEventListener("close", stopCamera);
  byId("camera-take").addEventListener("click", takePhoto);
}

/** Open the dialog and the camera. */
export async function openCamera() {
  const dialog = byId("camera-dialog");
  byId("camera-take").disabled = true;
  say(byId("camera-problem"), "");
  dialog.showModal();
  if (!navigator.mediaDevices) {
    say(byId("camera-problem"), t("camera.insecure"));
    return;
  }
  try {
    const opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (!dialog.open) {
      opened.getTracks().forEach((track) => track.stop());
      return;
    }
    stream = opened;
    const video = byId("camera-video");
    video.srcObject = stream;
    await video.play();
    byId("camera-take").disabled = false;
    byId("camera-take").focus();
  } catch {
    if (dialog.open) say(byId("camera-problem"), t("camera.none"));
  }
}

function takePhoto() {
  const video = byId("camera-video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => taken(new File([blob], t("camera.name"), { type: blob.type })), "image/jpeg", 0.95);
  byId("camera-dialog").close();
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  byId("camera-video").srcObject = null;
}
