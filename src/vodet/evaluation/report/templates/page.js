"use strict";
// A click on a frame of a strip shows the frame in the video below the strip.
document.addEventListener("click", (event) => {
  const button = event.target.closest(".strip button");
  if (!button) return;
  const item = button.closest(".item");
  const video = item.querySelector("video");
  for (const other of item.querySelectorAll(".strip button")) {
    other.setAttribute("aria-pressed", other === button);
  }
  const show = () => { video.pause(); video.currentTime = Number(button.dataset.seconds); };
  if (video.readyState > 0) return show();
  video.addEventListener("loadedmetadata", show, { once: true });
  video.preload = "auto";
  video.load();
});
