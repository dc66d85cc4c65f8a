# Read tables and maps of the atlas in R, without Python: install.packages(c("jsonlite", "RNifti")), then
#   Rscript docs/examples/atlas_tables.R results/atlas/export
folder <- commandArgs(trailingOnly = TRUE)[1]
schema <- jsonlite::fromJSON(file.path(folder, "tables", "schema.json"), simplifyVector = FALSE)
cat(schema$attribution, "-", schema$licence, "\n")

text <- function(name) Filter(function(column) column$dtype == "string", schema$tables[[name]])
read_table <- function(name) {
  columns <- vapply(text(name), function(column) column$name, "")
  classes <- setNames(rep("character", length(columns)), columns)
  read.csv(file.path(folder, "tables", paste0(name, ".csv")), colClasses = classes)
}
latents <- read_table("latents")
cat(nrow(latents), "rows of latents,", sum(grepl("^z[0-9]+$", names(latents))), "dimensions\n")

maps <- jsonlite::fromJSON(file.path(folder, "maps", "maps.json"))$maps
image <- RNifti::readNifti(file.path(folder, "maps", maps$file[1]))
cat(maps$description[1], ":", dim(image), "voxels, sum", sum(image), "\n")
